import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pika
import pytest
import structlog
import torch
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.delivery import delivery_count
from broker.publisher import Outgoing, outgoing
from broker.settings import BrokerSettings
from broker.topology import DELIVERY_LIMIT, EXCHANGE_UP, QUEUE_DENOISE, QUEUE_PREFETCH, up_key
from monitoring.metrics import BrokerMetrics, DenoiseMetrics
from server_worker.denoising.desk import RequestDesk
from server_worker.denoising.engine import Engine
from server_worker.denoising.replies import WINDOW, Replies
from server_worker.denoising.runner import Execution, Runner
from server_worker.denoising.scheduler import Limits, Scheduler
from server_worker.denoising.version_follower import VersionFollower
from server_worker.denoising.watchdog import Watchdog
from server_worker.denoising.worker import DenoiseWorker
from server_worker.storage import Storage
from server_worker.versions import Backbone
from tests.conftest import WAIT_SECONDS, wait_until
from tests.link import Link
from tests.server_worker.backbones import CPU, SCHEDULE, SHAPE, T, publish_backbone
from tests.server_worker.conftest import Worker
from tests.server_worker.denoising.test_engine import reference
from tests.server_worker.devices import Device, new_request_id

LONG_PLAN = tuple(range(T, 19, -1))


def request(**fields: object) -> DenoiseV1:
    values: dict[str, object] = {
        "request_id": new_request_id(),
        "shape": SHAPE,
        "n": 3,
        "schedule_id": SCHEDULE.schedule_id,
        "plan": (T, 60, 20),
        "clip": 1.0,
        "seed": 11,
        "dtype": "float32",
    }
    return DenoiseV1.model_validate({**values, **fields})


def together(parts: dict[int, LatentsV1]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.concatenate([parts[first].x for first in sorted(parts)])


class Running:
    """A denoise worker in a thread of this process."""

    def __init__(self, storage: Storage, connection: Connection, *, max_batch: int = 8) -> None:
        self.registry = CollectorRegistry()
        metrics = DenoiseMetrics(self.registry)
        self.stop = threading.Event()
        self.scheduler = Scheduler(Limits(max_batch))
        self.engine = Engine(Execution(CPU))
        worker = DenoiseWorker(
            versions=VersionFollower(storage, CPU, poll_seconds=0.05),
            consumers=lambda: (
                connection.consumer(QUEUE_DENOISE, 16),
                connection.consumer(QUEUE_PREFETCH, 16),
            ),
            scheduler=self.scheduler,
            engine=self.engine,
            desk=RequestDesk(
                self.scheduler,
                self.engine,
                Replies(connection.publisher(window=WINDOW), unroutable_attempts=2),
                metrics,
                part_bytes=1024 + 2 * 8 * 8 * 4,
            ),
            metrics=metrics,
            watchdog=Watchdog(60.0),
            max_batch=max_batch,
            drain_seconds=20.0,
        )
        self.thread = threading.Thread(target=self._run, args=(worker,))

    def _run(self, worker: DenoiseWorker) -> None:
        torch.set_num_threads(1)
        worker.run(self.stop)

    def runner(self) -> Runner:
        (number,) = self.engine.versions_loaded
        return self.engine.runner(number)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "server")


@pytest.fixture
def running(storage: Storage, connection: Connection) -> Iterator[Running]:
    worker = Running(storage, connection)
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    worker.thread.start()
    yield worker
    worker.stop.set()
    worker.thread.join(WAIT_SECONDS)
    assert not worker.thread.is_alive()


@pytest.fixture
def backbone(storage: Storage) -> Backbone:
    return publish_backbone(storage)


def test_requests_of_all_kinds_are_answered_in_bounded_parts(
    backbone: Backbone, running: Running, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    one, other = device("clinic"), device("plant")
    asked = [
        (one, request(n=5)),
        (one, request(n=1, sampler="ddpm", plan=LONG_PLAN, seed=12)),
        (
            other,
            request(
                n=7, sampler="dpmpp2m", plan=(T, 80, 50, 30), labels=np.array([0, 1, 2, 0, 1, 2, 0], np.int32)
            ),
        ),
        (other, request(n=2, eta=0.5, priority="prefetch", dtype="float16")),
    ]
    for sender, each in asked:
        sender.ask(each)
    for sender, each in asked:
        parts = sender.latents(each)
        assert {len(part.x) for part in parts.values()} <= {1, 2}
        assert {part.backbone_version for part in parts.values()} == {backbone.number}
        assert {part.t_stop for part in parts.values()} == {each.plan[-1]}
        half = each.dtype == "float16"
        np.testing.assert_allclose(
            together(parts), reference(backbone, each), atol=2e-3 if half else 1e-5, rtol=1e-3 if half else 0
        )
    assert not [message for message in other.received if message in one.received]
    wait_until(
        lambda: running.metric("collafuse_requests_total", outcome="completed") == 4,
        "all requests were ended",
    )
    wait_until(lambda: queue_depth(QUEUE_DENOISE) + queue_depth(QUEUE_PREFETCH) == 0, "the queues were empty")
    assert running.metric("collafuse_denoise_end_to_end_seconds_count") == 4
    assert (
        running.metric("collafuse_denoise_end_to_end_seconds_sum")
        > running.metric("collafuse_request_seconds_sum") - 0.1
    )
    assert running.metric("collafuse_network_calls_total") < sum(len(each.plan) - 1 for _, each in asked) + 7
    assert running.engine.versions_in_use == frozenset()


UNSERVABLE: list[tuple[dict[str, object], str]] = [
    ({"schedule_id": "0" * 16}, "schedule_mismatch"),
    ({"plan": (T, 10)}, "below_trained_cut"),
    ({"shape": (3, 8, 8)}, "shape_mismatch"),
    ({"labels": np.array([0, 1, 9], np.int32)}, "label_out_of_range"),
]


def test_what_cannot_be_served_fails_for_the_device_and_is_set_aside(
    backbone: Backbone, running: Running, device: Callable[..., Device], dead_letters: Callable[[], list[str]]
) -> None:
    sender = device()
    refused = [(request(**fields), reason) for fields, reason in UNSERVABLE]
    served = request()
    for each, _ in refused:
        sender.ask(each)
    sender.ask(served)
    for each, reason in refused:
        assert sender.failure(each).reason == reason
    assert len(sender.latents(served)) == 2
    wait_until(
        lambda: sorted(dead_letters()) == sorted(reason for _, reason in UNSERVABLE), "all were set aside"
    )


def test_a_request_that_outlived_too_many_workers_fails_for_the_device_before_it_is_set_aside(
    storage: Storage,
    running: Running,
    server_settings: BrokerSettings,
    device: Callable[..., Device],
    dead_letters: Callable[[], list[str]],
) -> None:
    sender, each = device(), request()
    sender.ask(each)
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        for returned in range(DELIVERY_LIMIT):
            method, properties, _ = channel.basic_get(QUEUE_DENOISE)
            assert delivery_count(properties.headers or {}, redelivered=method.redelivered) == returned
            channel.basic_nack(method.delivery_tag, requeue=True)

    publish_backbone(storage)

    failed = sender.failure(each)
    assert failed.reason == "delivered_too_often"
    assert f"after {DELIVERY_LIMIT} attempts" in failed.detail
    wait_until(lambda: dead_letters() == ["delivered_too_often"], "it was set aside")
    assert running.metric("collafuse_network_calls_total") == 0


def test_a_request_that_waited_too_long_fails_as_expired(
    backbone: Backbone, running: Running, device: Callable[..., Device], dead_letters: Callable[[], list[str]]
) -> None:
    sender = device()
    busy = request(n=24, plan=LONG_PLAN)
    sender.ask(busy)
    wait_until(lambda: running.metric("collafuse_samples_running") == 8, "the batch was full")
    late = request(ttl_seconds=0.05)
    sender.ask(late)
    assert sender.failure(late).reason == "expired"
    sender.latents(busy)
    wait_until(lambda: running.metric("collafuse_requests_total", outcome="expired") == 1, "it was counted")
    assert dead_letters() == []


def test_without_a_version_requests_stay_in_their_queue(
    running: Running, storage: Storage, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    sender = device()
    early = request()
    sender.ask(early)
    wait_until(lambda: queue_depth(QUEUE_DENOISE) == 1, "the request was queued")
    publish_backbone(storage)
    assert sender.latents(early)[0].backbone_version == 1


def test_requests_in_flight_finish_on_their_version_and_new_ones_use_the_new(
    backbone: Backbone, running: Running, storage: Storage, device: Callable[..., Device]
) -> None:
    sender = device()
    old = request(n=40, plan=LONG_PLAN)
    sender.ask(old)
    wait_until(lambda: running.metric("collafuse_samples_running") == 8, "the first request was running")
    newer = publish_backbone(storage, seed=5)
    wait_until(
        lambda: running.metric("collafuse_backbone_version", follow="latest") == 2,
        "the new version was loaded",
    )
    new = request(n=3, seed=77)
    sender.ask(new)
    first, second = sender.latents(old), sender.latents(new)
    assert {part.backbone_version for part in first.values()} == {1}
    assert {part.backbone_version for part in second.values()} == {2}
    np.testing.assert_allclose(together(first), reference(backbone, old), atol=1e-5)
    np.testing.assert_allclose(together(second), reference(newer, new), atol=1e-5)


def test_samples_are_sent_before_the_next_call_and_not_after_it(
    backbone: Backbone, running: Running, device: Callable[..., Device]
) -> None:
    calls: list[int] = []
    in_time: list[bool] = []
    came = threading.Event()

    def notice(_: object, args: tuple[torch.Tensor, ...]) -> None:
        if together_samples in calls:
            in_time.append(came.wait(20))
        calls.append(len(args[0]))
        threading.Event().wait(0.05)

    wait_until(lambda: running.engine.versions_loaded == {1}, "the version was loaded")
    sender = device()
    long, short = request(n=4, plan=LONG_PLAN), request(n=3, plan=(T, 20))
    together_samples = long.n + short.n
    hook = running.runner().backbone.network.register_forward_pre_hook(notice)
    sender.ask(long)
    wait_until(lambda: len(calls) >= 2, "the long request was running")
    sender.ask(short)
    sender.latents(short)
    came.set()
    wait_until(lambda: bool(in_time), "the next call was made")
    hook.remove()
    assert in_time[0], "it did not come before the next call was over"


def test_a_result_that_is_not_finite_fails_its_request_and_no_other(
    backbone: Backbone, running: Running, device: Callable[..., Device], dead_letters: Callable[[], list[str]]
) -> None:
    wait_until(lambda: running.engine.versions_loaded == {1}, "the version was loaded")
    running.runner().backbone.network.register_forward_hook(
        lambda _, args, predicted: torch.where(args[2][:, None, None, None] == 2, torch.nan, predicted)
    )
    sender = device()
    bad, good = request(labels=np.array([0, 2, 1], np.int32)), request(labels=np.array([0, 1, 1], np.int32))
    sender.ask(bad)
    sender.ask(good)
    assert sender.failure(bad).reason == "not_finite"
    assert sum(len(part.x) for part in sender.latents(good).values()) == 3
    wait_until(lambda: dead_letters() == ["not_finite"], "it was set aside")


def test_a_version_that_cannot_be_read_is_passed_over(
    backbone: Backbone, running: Running, storage: Storage, device: Callable[..., Device]
) -> None:
    manifest = publish_backbone(storage, seed=3).manifest
    path = Path(storage.url) / "versions" / f"{manifest.number:06d}" / "manifest.json"
    path.write_text(path.read_text().replace('"linear"', '"sqrt"'))
    sender, one = device(), request()
    sender.ask(one)
    sender.latents(one)
    publish_backbone(storage, seed=4)
    wait_until(
        lambda: running.metric("collafuse_backbone_version", follow="latest") == 3,
        "the next version was served",
    )


def test_a_request_whose_device_has_no_inbox_is_set_aside(
    backbone: Backbone,
    running: Running,
    device: Callable[..., Device],
    server_settings: BrokerSettings,
    dead_letters: Callable[[], list[str]],
) -> None:
    sender = device()
    sender.consumer.close()
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        amqp.channel().queue_delete(f"inbox.{sender.user}")
    sender.ask(request())
    wait_until(lambda: dead_letters() == ["no_inbox"], "it was set aside with its reason")
    assert running.metric("collafuse_requests_total", outcome="requeued") == DELIVERY_LIMIT


def test_a_request_sent_twice_is_worked_on_once(
    backbone: Backbone, running: Running, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    sender = device()
    each = request(n=30, plan=LONG_PLAN)
    sender.ask(each)
    sender.ask(each)
    sender.latents(each)
    wait_until(lambda: running.metric("collafuse_requests_total", outcome="completed") == 1, "it was ended")
    wait_until(lambda: queue_depth(QUEUE_DENOISE) == 0, "both deliveries were acknowledged")
    assert running.metric("collafuse_network_calls_total") == 4 * (len(LONG_PLAN) - 1)


def test_a_stopped_worker_finishes_what_runs_and_gives_the_rest_back(
    backbone: Backbone, running: Running, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    sender = device()
    started, waiting = request(n=8, plan=LONG_PLAN), request(n=8, plan=LONG_PLAN, seed=99)
    sender.ask(started)
    wait_until(lambda: running.metric("collafuse_samples_running") == 8, "the first request was running")
    sender.ask(waiting)
    wait_until(lambda: running.metric("collafuse_requests_waiting") == 1, "the second was waiting")
    running.stop.set()
    running.thread.join(WAIT_SECONDS)
    assert len(sender.latents(started)) == 4
    wait_until(lambda: queue_depth(QUEUE_DENOISE) == 1, "the second was back in the queue")
    assert [part for part in sender.all_of(LatentsV1) if part.request_id == waiting.request_id] == []
    assert sender.all_of(FailedV1) == []


def test_a_request_whose_connection_is_lost_is_finished_and_acknowledged_once(
    backbone: Backbone,
    storage: Storage,
    server_settings: BrokerSettings,
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
) -> None:
    with Link(server_settings.port) as link:
        url = server_settings.url.get_secret_value().replace(f":{server_settings.port}/", f":{link.port}/")
        through = Connection(
            BrokerSettings.from_url(url), name="cut", metrics=BrokerMetrics(CollectorRegistry())
        )
        running = Running(storage, through)
        with through:
            through.wait_connected(WAIT_SECONDS)
            running.thread.start()
            sender = device()
            each = request(n=24, plan=LONG_PLAN)
            sender.ask(each)
            wait_until(lambda: running.metric("collafuse_network_calls_total") >= 5, "it was running")
            assert link.cut() > 0
            np.testing.assert_allclose(together(sender.latents(each)), reference(backbone, each), atol=1e-5)
            wait_until(
                lambda: running.metric("collafuse_requests_total", outcome="completed") >= 1, "it was ended"
            )
            running.stop.set()
            running.thread.join(WAIT_SECONDS)
            assert not running.thread.is_alive()
    assert queue_depth(QUEUE_DENOISE) == 0


def test_the_job_that_a_device_names_stands_in_the_log_and_anything_else_is_no_matter(
    backbone: Backbone, running: Running, device: Callable[..., Device]
) -> None:
    sender, told = device(), {}
    names = ("a" * 32, None, "A" * 32, "a" * 33, "\x1b[2J", "x" * 255)
    with structlog.testing.capture_logs() as logs:
        for name in names:
            each = request()
            told[each.request_id] = name if name == "a" * 32 else None
            sender.publisher.publish(
                outgoing(
                    each,
                    exchange=EXCHANGE_UP,
                    routing_key=up_key(sender.user, "denoise"),
                    message_id=each.request_id,
                    correlation_id=name,
                )
            )
            assert together(sender.latents(each)).shape == (each.n, *SHAPE)

        def logged(event: str) -> dict[str, str | None]:
            return {line["request_id"]: line["job_id"] for line in logs if line["event"] == event}

        wait_until(lambda: len(logged("request_ended")) == len(names), "all have ended")
        nonsense = Outgoing(
            EXCHANGE_UP,
            up_key(sender.user, "denoise"),
            "c" * 32,
            "denoise.v1",
            b"\xc1",
            correlation_id="a" * 32,
        )
        sender.publisher.publish(nonsense)
        wait_until(lambda: any(line["event"] == "message_refused" for line in logs), "it is refused")
    (refused,) = [line for line in logs if line["event"] == "message_refused"]
    assert (refused["message_id"], refused["correlation_id"]) == ("c" * 32, "a" * 32)
    for event in ("request_begun", "part_sent", "request_computed", "request_ended"):
        assert logged(event) == told


def test_a_worker_killed_mid_request_is_replaced_by_another_with_the_same_result(
    backbone: Backbone,
    storage: Storage,
    worker: Callable[..., Worker],
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
) -> None:
    sender = device()
    arguments = (
        "denoise",
        "--storage",
        storage.url,
        "--max-batch",
        "4",
        "--poll",
        "0.2",
        "--requests-in-hand",
        "4",
    )
    first = worker(*arguments)
    each = request(n=150, plan=LONG_PLAN, sampler="ddpm", seed=4242)
    sender.ask(each)
    wait_until(
        lambda: first.metric("collafuse_network_calls_total") >= 5,
        "the first worker was in the middle of it",
    )
    first.kill()
    assert sum(len(part.x) for part in sender.all_of(LatentsV1)) < each.n
    second = worker(*arguments)
    parts = sender.latents(each, timeout_seconds=WAIT_SECONDS)
    np.testing.assert_allclose(together(parts), reference(backbone, each), atol=1e-5)
    second.wait_for("request_ended")
    second.process.terminate()
    assert second.end() == 0, second.log_path.read_text()
    assert queue_depth(QUEUE_DENOISE) == 0
