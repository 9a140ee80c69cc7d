"""Where everything went: what was accepted against what is found in the end, by looking at the things themselves."""

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pika
from rich.table import Table

from broker.topology import QUEUE_DEAD
from server_worker.samples.store import SampleStore
from tests.chaos.federation import Device, Federation

TOLERANCE = 1e-3
"""Between the same samples computed in different batches; the latents travel as float16."""


@dataclass(frozen=True)
class Row:
    """What became of one kind of work.

    attempted: accepted by the devices.  acknowledged: taken over by the broker.  stored: stored samples, finished pictures.
    lost: nowhere to be found.  duplicated: there twice.  recovered: delivered more than once, and there once.
    dead_lettered: set aside with a reason.  unexpected: what, in words.
    """

    kind: str
    attempted: int
    acknowledged: int
    stored: int
    lost: int
    duplicated: int
    recovered: int
    dead_lettered: int
    unexpected: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the promises were kept."""
        return self.lost == 0 and self.duplicated == 0 and not self.unexpected


def table(rows: list[Row]) -> Table:
    """The accounting as people read it."""
    shown = Table(
        "",
        "attempted",
        "acknowledged",
        "stored",
        "lost",
        "duplicated",
        "recovered",
        "dead-lettered",
        "unexpected",
    )
    for row in rows:
        counts = (
            row.attempted,
            row.acknowledged,
            row.stored,
            row.lost,
            row.duplicated,
            row.recovered,
            row.dead_lettered,
        )
        shown.add_row(row.kind, *(f"{count:,}" for count in counts), f"{len(row.unexpected):,}")
    return shown


def account(federation: Federation) -> list[Row]:
    """Look everywhere. Nothing may run any more but the brokers."""
    dead = _dead(federation)
    events = _events(federation)
    samples = _samples(federation, dead, events)
    requests = _requests(federation, dead, events)
    requests.unexpected.extend(
        [exit_ for process in federation.processes for exit_ in process.exits]
        + [
            f"{event['event']}: {event.get('error', '')}"
            for event in events
            if event["event"] in UNEXPECTED_EVENTS
        ]
        + _tracebacks(federation)
    )
    return [samples, requests]


UNEXPECTED_EVENTS = {
    "io_thread_failed",
    "sample_batch_damaged",
    "relay_stopped",
    "result_mismatch",
    "head_failed",
}


def _samples(federation: Federation, dead: dict[str, str], events: list[dict[str, object]]) -> Row:
    store = SampleStore(federation.storage, quarantine=False)
    stored = {entry.message_id: entry for entry in store.entries()}
    owners = {
        row[0]: device
        for device in federation.devices
        for row in device.spool.rows("SELECT DISTINCT batch_id FROM ledger")
    }
    waiting = {
        row[0]
        for device in federation.devices
        for row in device.spool.rows("SELECT message_id FROM outbox WHERE kind = 'samples'")
    }
    unexpected = [f"stored from nowhere: {message_id}" for message_id in stored.keys() - owners.keys()]
    unexpected += [
        f"{message_id} of {device.name} is stored under {stored[message_id].device}"
        for message_id, device in owners.items()
        if message_id in stored
        and (stored[message_id].client, stored[message_id].device) != (device.client, device.name)
    ]
    unexpected += [f"damaged: {message_id} {why}" for message_id, why in store.quarantined.items()]
    releases = Counter((entry.client, entry.device, entry.release) for entry in stored.values())
    repeated = {str(event["batch_id"]) for event in events if event["event"] == "samples_repeated"}
    return Row(
        kind="sample messages",
        attempted=len(owners),
        acknowledged=len(owners.keys() - waiting),
        stored=len(stored),
        lost=len(owners.keys() - stored.keys() - waiting - dead.keys()),
        duplicated=store.copies + sum(releases.values()) - len(releases),
        recovered=len(repeated & stored.keys()),
        dead_lettered=len(owners.keys() & dead.keys()),
        unexpected=unexpected,
    )


def _requests(federation: Federation, dead: dict[str, str], events: list[dict[str, object]]) -> Row:
    jobs = [(device, row) for device in federation.devices for row in device.spool.rows("SELECT * FROM jobs")]
    ended = Counter(row["state"] for _, row in jobs)
    failed = [(row["reason"], row["detail"]) for _, row in jobs if row["state"] == "failed"]
    taken = Counter(
        str(event["request_id"])
        for event in events
        if event["event"] in {"request_taken", "request_redelivered"}
    )
    unsent = sum(
        device.spool.rows("SELECT count(DISTINCT job_id) FROM outbox WHERE kind = 'denoise'")[0][0]
        for device in federation.devices
    )
    return Row(
        kind="denoise requests",
        attempted=len(jobs),
        acknowledged=len(jobs) - ended["accepted"] - unsent,
        stored=ended["completed"],
        lost=len(jobs) - ended["completed"] - ended["failed"] - ended["expired"],
        duplicated=0,
        recovered=sum(count > 1 for count in taken.values()),
        dead_lettered=sum(reason == "delivered_too_often" for reason, _ in failed),
        unexpected=[
            *(f"failed: {reason}: {detail}" for reason, detail in failed if reason != "delivered_too_often"),
            *(["expired, though no time was set"] * ended["expired"]),
            *_differences(federation),
        ],
    )


def _differences(federation: Federation) -> list[str]:
    """Jobs of one seed are the same samples at the cut, whichever worker, batch and attempt made them."""
    first: dict[int, np.ndarray] = {}
    found = []
    for device in federation.devices:
        for row in device.spool.rows("SELECT job_id, seed, count FROM jobs WHERE state = 'completed'"):
            folder = device.state.results(row["job_id"])
            latents = np.load(folder / "latents.npy")
            if len(list(folder.glob("*.png"))) != row["count"] or len(latents) != row["count"]:
                found.append(f"job {row['job_id']} has not as many pictures as were asked for")
                continue
            difference = float(np.abs(latents - first.setdefault(row["seed"], latents)).max())
            if difference > TOLERANCE:
                found.append(
                    f"job {row['job_id']} of seed {row['seed']} differs by {difference:.2g} from another"
                )
    return found


def _dead(federation: Federation) -> dict[str, str]:
    """Message id → reason of everything that was set aside."""
    found: dict[str, str] = {}
    with pika.BlockingConnection(pika.URLParameters(federation.brokers.first.amqp_url)) as amqp:
        channel = amqp.channel()
        while True:
            method, properties, _ = channel.basic_get(QUEUE_DEAD)
            if method is None:
                return found
            headers = properties.headers or {}
            found[str(properties.message_id)] = str(
                headers.get("x-reason") or headers.get("x-first-death-reason")
            )


def _events(federation: Federation) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for process in federation.processes
        for line in process.log.read_text(errors="replace").splitlines()
        if line.startswith("{") and line.endswith("}")  # a process that was killed may leave half a line
    ]


def _tracebacks(federation: Federation) -> list[str]:
    return [
        f"{process.name} wrote a traceback: {process.log}"
        for process in federation.processes
        if "Traceback (most recent call last)" in process.log.read_text(errors="replace")
    ]


def undone(device: Device) -> tuple[int, int]:
    """Messages that wait in a device's outbox, and jobs that have not ended."""
    messages = device.spool.rows("SELECT count(*) FROM outbox")[0][0]
    unfinished = device.spool.rows(
        "SELECT count(*) FROM jobs WHERE state NOT IN ('completed', 'failed', 'expired')"
    )
    return messages, unfinished[0][0]
