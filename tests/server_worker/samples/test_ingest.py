import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pika
import pytest
from prometheus_client import CollectorRegistry

from broker.codec import encode
from broker.connection import Connection
from broker.contract.denoise import DenoiseV1
from broker.contract.receipts import ReceiptV1
from broker.contract.samples import SamplesV1
from broker.settings import BrokerSettings
from broker.topology import DELIVERY_LIMIT, QUEUE_SAMPLES
from monitoring.metrics import TrainMetrics
from server_worker.samples.ingest import (
    CLIENTS_SHOWN,
    OTHER_CLIENTS,
    RECEIPTS_IN_FLIGHT,
    Ingest,
    shown_clients,
)
from server_worker.samples.limits import StoreLimits
from server_worker.samples.store import NO_LIMITS, SampleStore
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS, wait_until
from tests.server_worker.backbones import CONTRACT, SCHEDULE, SHAPE, T, sample_batch
from tests.server_worker.devices import Device
from tests.server_worker.test_storage import files_limited_to


class Running:
    """An ingest thread over a store, with its metrics."""

    def __init__(self, root: Path, connection: Connection, limits: StoreLimits = NO_LIMITS) -> None:
        self.registry = CollectorRegistry()
        self.storage = Storage(root)
        self.store = SampleStore(self.storage, limits=limits)
        self.stop = threading.Event()
        ingest = Ingest(
            CONTRACT,
            self.storage,
            self.store,
            consumer=connection.consumer(QUEUE_SAMPLES, 4),
            publisher=connection.publisher(window=RECEIPTS_IN_FLIGHT),
            metrics=TrainMetrics(self.registry),
            messages_in_hand=4,
        )
        self.thread = threading.Thread(target=ingest.run, args=(self.stop,))

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def running(tmp_path: Path, connection: Connection) -> Iterator[Running]:
    ingest = Running(tmp_path / "store", connection)
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    ingest.thread.start()
    yield ingest
    ingest.stop.set()
    ingest.thread.join(WAIT_SECONDS)
    assert not ingest.thread.is_alive()


def test_a_batch_is_stored_under_its_sender_and_a_receipt_comes_back(
    running: Running, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    sender = device("clinic")
    batch_id = sender.send_samples(sample_batch(1))
    wait_until(lambda: bool(sender.all_of(ReceiptV1)), "a receipt came")
    assert sender.all_of(ReceiptV1) == [ReceiptV1(batch_id=batch_id, samples=4, duplicate=False)]
    (entry,) = running.store.entries()
    assert (entry.client, f"{entry.client}_{entry.device}") == ("clinic", sender.user)
    assert entry.message_id == batch_id
    wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 0, "the queue was empty")


def test_samples_are_shown_by_client_and_no_longer_when_they_are_forgotten(
    running: Running, device: Callable[..., Device]
) -> None:
    for client, numbers in (("clinic", (1, 2)), ("plant", (3,))):
        sender = device(client)
        for number in numbers:
            sender.send_samples(sample_batch(number))

    def shown(client: str) -> float | None:
        return running.registry.get_sample_value("collafuse_store_client_samples", {"client": client})

    wait_until(lambda: (shown("clinic"), shown("plant")) == (8.0, 4.0), "both clients' samples are shown")
    running.store.forget("clinic", None)
    device("plant").send_samples(sample_batch(4))
    wait_until(
        lambda: (shown("clinic"), shown("plant")) == (None, 8.0), "the forgotten client is shown no more"
    )


def test_of_many_clients_those_with_most_samples_are_named() -> None:
    samples = {f"client-{number:02d}": 100 + number for number in range(30)} | {"other": 10_000}

    shown = shown_clients(samples)

    assert len(shown) == CLIENTS_SHOWN + 1
    assert set(shown) == {f"client-{number:02d}" for number in range(10, 30)} | {OTHER_CLIENTS}
    assert sum(shown.values()) == sum(samples.values())
    assert shown_clients({"clinic": 4}) == {"clinic": 4}


def test_a_batch_delivered_again_and_again_is_stored_once(
    running: Running, device: Callable[..., Device]
) -> None:
    sender = device()
    for _ in range(3):
        sender.send_samples(sample_batch(1))
    wait_until(lambda: len(sender.all_of(ReceiptV1)) == 3, "every delivery got its receipt")
    assert [receipt.duplicate for receipt in sender.all_of(ReceiptV1)] == [False, True, True]
    assert running.store.samples == 4
    assert running.metric("collafuse_samples_stored_total") == 4
    assert running.metric("collafuse_samples_duplicate_total") == 8


def test_a_batch_that_outlived_too_many_workers_is_set_aside_and_not_tried_again(
    device: Callable[..., Device],
    connection: Connection,
    server_settings: BrokerSettings,
    dead_letters: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    sender = device()
    sender.send_samples(sample_batch(1))
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        for _ in range(DELIVERY_LIMIT):
            method, _, _ = channel.basic_get(QUEUE_SAMPLES)
            channel.basic_nack(method.delivery_tag, requeue=True)
    ingest = Running(tmp_path / "store", connection)
    connection.start()
    ingest.thread.start()
    try:
        wait_until(lambda: dead_letters() == ["delivered_too_often"], "it was set aside")
        assert ingest.store.samples == 0
        sender.send_samples(sample_batch(2))
        wait_until(lambda: ingest.store.samples == 4, "the next one is stored")
    finally:
        ingest.stop.set()
        ingest.thread.join(WAIT_SECONDS)


POISON: list[tuple[str, SamplesV1]] = [
    ("schedule_mismatch", sample_batch(1).model_copy(update={"schedule_id": "f" * 16})),
    ("cut_out_of_range", sample_batch(1, t_cut=10)),
    ("cut_out_of_range", sample_batch(1, t_cut=90)),
    (
        "shape_mismatch",
        SamplesV1.pack(
            np.zeros((1, 3, 8, 8), np.float32), schedule_id=SCHEDULE.schedule_id, t_cut=40, release=0
        ),
    ),
    ("label_out_of_range", sample_batch(1).model_copy(update={"labels": np.array([0, 1, 2, 3], np.int32)})),
    (
        "bad_timestep",
        SamplesV1.pack(
            np.zeros((1, *SHAPE), np.float32),
            schedule_id=SCHEDULE.schedule_id,
            t_cut=40,
            release=0,
            t=np.array([T + 1]),
            noise=np.zeros((1, *SHAPE), np.float32),
        ),
    ),
]


def test_poison_is_set_aside_with_its_reason_and_the_queue_moves_on(
    running: Running, device: Callable[..., Device], dead_letters: Callable[[], list[str]]
) -> None:
    sender = device()
    for _, message in POISON:
        sender.send_samples(message)
    sender.send_body(b"\x93garbage", "samples.v1", "samples", "0" * 64)
    sender.send_body(encode(sample_batch(1)), "samples.v9", "samples", "0" * 64)
    sender.send_body(encode(sample_batch(1)), "samples.v1", "samples", "0" * 64)
    request = DenoiseV1(
        request_id="a" * 32, shape=SHAPE, n=1, schedule_id=SCHEDULE.schedule_id, plan=(T, 20), seed=1
    )
    sender.send_body(encode(request), "denoise.v1", "samples", "0" * 64)
    sender.send_samples(sample_batch(2))
    wait_until(lambda: running.store.samples == 4, "the good batch behind them was stored")
    expected = [reason for reason, _ in POISON] + [
        "not_msgpack",
        "unknown_version",
        "wrong_message_id",
        "wrong_type",
    ]
    wait_until(
        lambda: sorted(dead_letters()) == sorted(expected), "every poison was set aside with its reason"
    )


def test_a_message_without_a_validated_sender_is_refused(
    running: Running, server_settings: BrokerSettings, dead_letters: Callable[[], list[str]]
) -> None:
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        for user in (None, server_settings.user):
            properties = pika.BasicProperties(type="samples.v1", message_id="0" * 64, user_id=user)
            channel.basic_publish("", QUEUE_SAMPLES, encode(sample_batch(1)), properties)
    wait_until(lambda: len(dead_letters()) == 2, "both were set aside")
    assert sorted(dead_letters())[1] == "not_a_device"
    assert running.store.samples == 0


def test_a_device_without_an_inbox_does_not_stop_the_taking(
    running: Running,
    device: Callable[..., Device],
    server_settings: BrokerSettings,
    queue_depth: Callable[[str], int],
) -> None:
    sender = device()
    sender.consumer.close()
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        amqp.channel().queue_delete(f"inbox.{sender.user}")
    for seed in range(3):
        sender.send_samples(sample_batch(seed))
    wait_until(lambda: running.store.samples == 12, "all batches were stored")
    wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 0, "the queue was empty")


def test_a_full_store_pauses_the_taking_and_it_resumes_by_itself(
    running: Running, device: Callable[..., Device], queue_depth: Callable[[str], int]
) -> None:
    sender = device()
    large = [sample_batch(seed, count=400, dtype="float32") for seed in range(3)]
    with files_limited_to(64 * 1024):
        for message in large:
            sender.send_samples(message)
        wait_until(lambda: running.metric("collafuse_ingest_paused") == 1, "the taking paused")
        wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 3, "every batch was back in the queue")
        assert running.store.samples == 0
        assert running.thread.is_alive()
    wait_until(lambda: running.store.samples == 1200, "the taking resumed and stored everything")
    assert running.metric("collafuse_ingest_paused") == 0
    wait_until(lambda: len(sender.all_of(ReceiptV1)) == 3, "every batch got its receipt")
    assert not any(receipt.duplicate for receipt in sender.all_of(ReceiptV1))


@pytest.fixture
def limited(tmp_path: Path, connection: Connection) -> Iterator[Callable[[StoreLimits], Running]]:
    """Starts an ingest with limits."""
    started: list[Running] = []

    def start(limits: StoreLimits) -> Running:
        started.append(Running(tmp_path / "store", connection, limits))
        connection.start()
        connection.wait_connected(WAIT_SECONDS)
        started[-1].thread.start()
        return started[-1]

    yield start
    for ingest in started:
        ingest.stop.set()
        ingest.thread.join(WAIT_SECONDS)
        assert not ingest.thread.is_alive()


def test_what_waits_is_stored_together_and_every_batch_gets_its_receipt(
    device: Callable[..., Device], tmp_path: Path, connection: Connection
) -> None:
    sender = device()
    sent = {sender.send_samples(sample_batch(seed)) for seed in range(12)}
    ingest = Running(tmp_path / "store", connection)
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    ingest.thread.start()
    try:
        wait_until(lambda: len(sender.all_of(ReceiptV1)) == 12, "every batch got its receipt")
        assert {receipt.batch_id for receipt in sender.all_of(ReceiptV1)} == sent
        assert {entry.message_id for entry in ingest.store.entries()} == sent
        assert len(ingest.store.snapshot()) < 12
        assert ingest.metric("collafuse_samples_stored_total") == 48
    finally:
        ingest.stop.set()
        ingest.thread.join(WAIT_SECONDS)


def test_samples_of_a_forgotten_sender_are_dropped_counted_and_not_set_aside(
    running: Running,
    device: Callable[..., Device],
    dead_letters: Callable[[], list[str]],
    queue_depth: Callable[[str], int],
) -> None:
    sender, other = device("clinic"), device("plant")
    sender.send_samples(sample_batch(1))
    wait_until(lambda: running.store.samples == 4, "the first batch was stored")
    SampleStore(running.storage).forget("clinic")
    sender.send_samples(sample_batch(1))
    sender.send_samples(sample_batch(2))
    other.send_samples(sample_batch(3))
    wait_until(lambda: len(other.all_of(ReceiptV1)) == 1, "the other's batch was stored")
    wait_until(lambda: running.metric("collafuse_samples_forgotten_total") == 8, "both were counted")
    wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 0, "the queue was empty")
    assert [entry.client for entry in running.store.entries()] == ["plant"]
    assert dead_letters() == []
    wait_until(lambda: len(sender.all_of(ReceiptV1)) >= 1, "the receipt of the first came")
    assert len(sender.all_of(ReceiptV1)) == 1


def test_a_batch_above_its_clients_quota_is_set_aside_and_others_are_stored(
    limited: Callable[[StoreLimits], Running],
    device: Callable[..., Device],
    dead_letters: Callable[[], list[str]],
) -> None:
    running = limited(StoreLimits(client_max_bytes=sample_batch(0).x.nbytes))
    sender, other = device("clinic"), device("plant")
    sender.send_samples(sample_batch(1))
    wait_until(lambda: running.store.samples == 4, "the first batch was stored")
    sender.send_samples(sample_batch(2))
    other.send_samples(sample_batch(3))
    wait_until(lambda: dead_letters() == ["over_quota"], "the second was set aside")
    wait_until(lambda: running.store.samples == 8, "the other's was stored")
    assert running.metric("collafuse_store_quota_used_ratio", quota="client") == 1
    assert running.registry.get_sample_value("collafuse_store_quota_used_ratio", {"quota": "store"}) is None


def test_a_store_at_its_quota_pauses_the_taking_and_it_resumes_once_there_is_room(
    limited: Callable[[StoreLimits], Running],
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
    dead_letters: Callable[[], list[str]],
) -> None:
    running = limited(StoreLimits(max_bytes=100_000))
    first, second = device("clinic"), device("plant")
    first.send_samples(sample_batch(1, count=600))
    wait_until(lambda: running.store.samples == 600, "the first batch was stored")
    second.send_samples(sample_batch(2, count=600))
    wait_until(lambda: running.metric("collafuse_ingest_paused") == 1, "the taking paused")
    assert 0.5 < running.metric("collafuse_store_quota_used_ratio", quota="store") <= 1
    wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 1, "the second batch was back in the queue")
    SampleStore(running.storage).forget("clinic")
    wait_until(lambda: running.metric("collafuse_ingest_paused") == 0, "the taking resumed")
    wait_until(lambda: [entry.client for entry in running.store.entries()] == ["plant"], "it was stored")
    assert dead_letters() == []
    SampleStore(running.storage).forget("plant")
    running.store.refresh()
    wait_until(
        lambda: running.metric("collafuse_store_quota_used_ratio", quota="store") == 0,
        "what was erased is not counted any more, though nothing came",
    )


def test_what_was_set_aside_is_not_put_back_when_the_disk_is_full(
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
    dead_letters: Callable[[], list[str]],
    tmp_path: Path,
    connection: Connection,
) -> None:
    sender = device()
    sender.send_samples(sample_batch(1, t_cut=10))
    sender.send_samples(sample_batch(2, count=400, dtype="float32"))
    ingest = Running(tmp_path / "store", connection)
    wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 2, "both waited")
    with files_limited_to(64 * 1024):
        connection.start()
        connection.wait_connected(WAIT_SECONDS)
        ingest.thread.start()
        wait_until(lambda: ingest.metric("collafuse_ingest_paused") == 1, "the taking paused")
        wait_until(lambda: dead_letters() == ["cut_out_of_range"], "the poison was set aside")
        wait_until(lambda: queue_depth(QUEUE_SAMPLES) == 1, "the other was back in the queue")
    wait_until(lambda: ingest.store.samples == 400, "the taking resumed")
    ingest.stop.set()
    ingest.thread.join(WAIT_SECONDS)
    assert not ingest.thread.is_alive()
    assert dead_letters() == ["cut_out_of_range"]
