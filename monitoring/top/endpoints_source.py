"""What the processes tell at their `/metrics`: the exporter of queues and fleet, the others of themselves."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import httpx

from broker.topology import FEDERATION, QUEUE_TELEMETRY
from monitoring.exporter.fleet.doubts import OTHERS
from monitoring.top import units
from monitoring.top.errors import NoAnswer
from monitoring.top.scrape import Change, Scrape, metrics_url, place, scrape
from monitoring.top.snapshot import UNKNOWN_NAME, FleetState, QueueState, WorkerState

TIMEOUT_SECONDS = 3.0
DENOISE, EXPORTER = "denoise", "exporter"
FOLLOWED = ("latest", "best")
_HEADS_SHOWN = 5


class EndpointsSource:
    """The endpoints that an operator named; a context manager that closes its connections.

    urls: of /metrics; scheme and path may be left out.  clock: monotonic seconds.

    Raises NoAnswer for what is no URL.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = [metrics_url(url) for url in urls]
        self._clock = clock
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False)
        self._before: dict[httpx.URL, Scrape] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def look(self) -> dict[str, Change | NoAnswer]:
        """Every endpoint's answer by its place, beside its last; or why there is none."""
        found: dict[str, Change | NoAnswer] = {}
        for url in self._urls:
            try:
                now = scrape(self._client, url, self._clock())
            except NoAnswer as error:
                found[place(url)] = error
            else:
                found[place(url)] = Change(now, self._before.get(url))
                self._before[url] = now
        return found


def is_exporter(change: Change) -> bool:
    """Whether it is the exporter that answered."""
    return change.now.has("collafuse_broker_up")


def queues(change: Change) -> tuple[QueueState, ...]:
    """The federation's queues, as the exporter tells of them; none while it cannot reach the broker."""
    depths = change.now.by_label("collafuse_queue_messages", "queue")
    return tuple(_queue(change, queue.name) for queue in FEDERATION.queues if queue.name in depths)


def fleet(change: Change) -> FleetState | None:
    """The devices, as the exporter tells of them; None while it cannot."""
    inboxes = change.now.total("collafuse_inboxes")
    if inboxes is None:
        return None
    fullest = change.now.total("collafuse_inbox_messages_max")
    return FleetState(
        inboxes=int(inboxes),
        connected=int(change.now.total("collafuse_inboxes_read") or 0),
        waiting=int(change.now.total("collafuse_inbox_messages") or 0),
        fullest=None if fullest is None else ("", int(fullest)),
        told=dict(_told_by_devices(change)),
    )


def worker(at: str, change: Change | NoAnswer) -> WorkerState:
    """One process, by what it serves."""
    if isinstance(change, NoAnswer):
        return WorkerState(UNKNOWN_NAME, at, problem=change.why)
    for name, sign, tell in _KINDS:
        if change.now.has(sign):
            return WorkerState(name, at, _reads(name, change), dict(tell(change)), _problem(change))
    return WorkerState(UNKNOWN_NAME, at, problem="it serves none of our metrics")


def behind(told: Mapping[str, Change | NoAnswer]) -> tuple[str, ...]:
    """Which denoise workers serve an older backbone than another process that follows the same, one line each."""
    found: list[str] = []
    for follow in FOLLOWED:
        versions = _versions(told, follow)
        newest = max(versions.values(), default=0)
        for at, version in versions.items():
            if version < newest and worker(at, told[at]).name == DENOISE:
                serves = f"version {version}" if version else "no version"
                found.append(f"{DENOISE} at {at}: it serves {serves} of the backbone, there is {newest}")
    return tuple(found)


def _versions(told: Mapping[str, Change | NoAnswer], follow: str) -> dict[str, int]:
    """The backbone version of each process that has one to follow."""
    versions = {
        at: change.now.total("collafuse_backbone_version", follow=follow)
        for at, change in told.items()
        if isinstance(change, Change)
    }
    return {at: int(version) for at, version in versions.items() if version is not None}


def _reads(name: str, change: Change) -> tuple[str, ...]:
    """What the exporter reads while it is connected, for the broker lets one alone; of others the broker tells."""
    reads = name == EXPORTER and change.now.total("collafuse_connected") == 1
    return (QUEUE_TELEMETRY,) if reads else ()


def _queue(change: Change, name: str) -> QueueState:
    def value(metric: str, **labels: str) -> int:
        return int(change.now.total(metric, queue=name, **labels) or 0)

    return QueueState(
        name,
        value("collafuse_queue_messages", state="ready"),
        value("collafuse_queue_messages", state="unacked"),
        change.per_second("collafuse_queue_published_total", queue=name),
        change.per_second("collafuse_queue_acknowledged_total", queue=name),
        change.now.total("collafuse_queue_oldest_message_age_seconds", queue=name),
        value("collafuse_queue_consumers"),
    )


def _problem(change: Change) -> str | None:
    if change.now.total("collafuse_connected") == 0:
        return "not connected to the broker"
    if change.now.total("collafuse_ingest_paused"):
        return "takes no samples: its store is full, at its quota or read-only"
    return None


def _tell_denoise(change: Change) -> Iterator[tuple[str, str]]:
    yield "running", _count(change, "collafuse_samples_running")
    yield "waiting", _count(change, "collafuse_requests_waiting")
    yield "step", units.seconds(change.mean("collafuse_denoise_step_seconds"))
    yield "batch", units.number(change.mean("collafuse_denoise_batch_samples"))
    yield "done", _count(change, "collafuse_requests_total", outcome="completed")
    yield "failed", _count(change, "collafuse_requests_total", outcome="failed")
    yield "version", _count(change, "collafuse_backbone_version")
    yield "request", units.seconds(change.mean("collafuse_denoise_end_to_end_seconds"))
    yield from _tell_gpu(change)


def _tell_train(change: Change) -> Iterator[tuple[str, str]]:
    yield "steps/s", units.number(change.per_second("collafuse_train_steps_total"))
    yield "step", units.seconds(change.mean("collafuse_train_step_seconds"))
    yield "samples", _count(change, "collafuse_store_samples")
    yield "store", units.size(change.now.total("collafuse_store_bytes"))
    yield "version", _count(change, "collafuse_backbone_version", follow="latest")
    yield from _tell_gpu(change)


def _tell_gpu(change: Change) -> Iterator[tuple[str, str]]:
    """Of each GPU that the process sees how busy it is, and of all of them the memory."""
    for gpu, busy in sorted(change.now.by_label("collafuse_gpu_utilisation_ratio", "gpu").items()):
        yield f"GPU {gpu}", f"{busy:.0%}"
    memory = change.now.by_label("collafuse_gpu_memory_bytes", "state")
    if {"used", "total"} <= set(memory):
        yield "GPU memory", f"{units.size(memory['used'])} of {units.size(memory['total'])}"


def _tell_edge(change: Change) -> Iterator[tuple[str, str]]:
    yield "outbox", units.size(change.now.total("collafuse_outbox_bytes"))
    yield "oldest", units.seconds(change.now.total("collafuse_outbox_oldest_seconds"))
    yield (
        "stock",
        f"{_count(change, 'collafuse_pool_images')} of {_count(change, 'collafuse_pool_wanted')}",
    )
    yield "head step", units.seconds(change.mean("collafuse_head_step_seconds"))
    yield "jobs", _count(change, "collafuse_jobs_total")


def _tell_exporter(change: Change) -> Iterator[tuple[str, str]]:
    yield "broker", "up" if change.now.total("collafuse_broker_up") else "down"
    yield "read in", units.seconds(change.now.total("collafuse_broker_read_seconds"))


_KINDS: tuple[tuple[str, str, Callable[[Change], Iterator[tuple[str, str]]]], ...] = (
    (DENOISE, "collafuse_samples_running", _tell_denoise),
    ("train", "collafuse_train_steps_total", _tell_train),
    ("edge", "collafuse_outbox_messages", _tell_edge),
    (EXPORTER, "collafuse_broker_up", _tell_exporter),
)
"""What a process calls itself, a metric that it alone serves, and what it tells."""

_FLEET: Mapping[str, tuple[str, Callable[[float | None], str]]] = {
    "outboxes": ("collafuse_fleet_outbox_bytes", units.size),
    "oldest in an outbox": ("collafuse_fleet_outbox_oldest_seconds", units.seconds),
    "stock": ("collafuse_fleet_pool_images", units.number),
    "stock wanted": ("collafuse_fleet_pool_wanted", units.number),
    "largest epsilon": ("collafuse_fleet_epsilon_max", units.number),
    "joules of an image": ("collafuse_fleet_image_joules", units.number),
}


def _told_by_devices(change: Change) -> Iterator[tuple[str, str]]:
    """What the exporter knows from the devices' telemetry, where it takes that in."""
    for state, devices in sorted(change.now.by_label("collafuse_fleet_devices", "state").items()):
        yield state, units.number(devices)
    for name, (metric, words) in _FLEET.items():
        value = change.now.total(metric)
        if value is not None:
            yield name, words(value)
    for title, metric, label in (
        ("to be looked at:", "collafuse_fleet_troubled", "trouble"),
        ("jobs", "collafuse_fleet_jobs_total", "outcome"),
        ("heads", "collafuse_fleet_updates", "state"),
    ):
        for which, count in sorted(change.now.by_label(metric, label).items()):
            if count:
                yield f"{title} {which}", units.number(count)
    yield from _not_believed(change)
    heads = sorted(change.now.series("collafuse_fleet_heads"), key=lambda each: each[0], reverse=True)
    for devices, labels in heads[:_HEADS_SHOWN]:
        yield (
            f"head {' '.join(filter(None, map(labels.get, ('head', 'version', 'provider'))))}",
            units.number(devices),
        )


def _not_believed(change: Change) -> Iterator[tuple[str, str]]:
    """Each device that is named, with what it did, and how many others did so."""
    causes: dict[str, list[str]] = {}
    for devices, labels in change.now.series("collafuse_fleet_distrusted"):
        who, cause = labels.get("device", UNKNOWN_NAME), labels.get("cause", UNKNOWN_NAME)
        if devices:
            causes.setdefault(who, []).append(f"{cause} {units.number(devices)}" if who == OTHERS else cause)
    for who, given in sorted(causes.items()):
        yield f"not believed: {who}", ", ".join(sorted(given))


def _count(change: Change, name: str, **labels: str) -> str:
    return units.number(change.now.total(name, **labels))
