import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from broker.codec import digest, encode
from broker.connection import Connection
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from monitoring.metrics import TrainMetrics
from server_worker import assembly, versions
from server_worker.samples.draw import held_out_of
from server_worker.samples.store import SampleStore
from server_worker.settings import TrainSettings
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.ranks import ALONE
from tests.conftest import wait_until
from tests.server_worker.backbones import CLASSES, SCHEDULE, SHAPE, T, sample_batch
from tests.server_worker.conftest import Worker
from tests.server_worker.devices import Device

FEDERATION = (
    *("--schedule-steps", str(T), "--channels", "1", "--image-size", "8", "--num-classes", str(CLASSES)),
    *("--schedule", SCHEDULE.name),
    *("--cut-min", "0.2", "--cut-max", "0.8", "--base-channels", "8", "--channel-multipliers", "1,2"),
    *("--blocks-per-level", "1", "--batch-size", "8", "--min-samples", "16", "--warmup-steps", "10"),
)


def test_a_killed_trainer_goes_on_where_it_was_and_loses_nothing(
    worker: Callable[..., Worker], device: Callable[..., Device], tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "server")
    arguments = (
        *("train", "--storage", storage.url, *FEDERATION, "--steps", "300"),
        *("--checkpoint-steps", "40", "--publish-steps", "100", "--round", "1"),
    )
    sender = device()
    first = worker(*arguments)
    for seed in range(5):
        sender.send_samples(sample_batch(seed, t_cut=20 + 10 * (seed % 3)))
    wait_until(lambda: first.metric("collafuse_train_steps_total") >= 60, "training was well under way")
    wait_until(lambda: len(storage.folders("checkpoints")) > 0, "a checkpoint was there")
    first.kill()
    checkpoint = checkpoints.load_newest(storage)
    assert checkpoint is not None
    assert 40 <= checkpoint.step < 300
    for seed in range(4, 8):  # the fifth batch again, and three more
        sender.send_samples(sample_batch(seed, t_cut=20 + 10 * (seed % 3)))

    second = worker(*arguments, "--exit-when-done")
    assert second.wait_for("training_resumed")["step"] == checkpoint.step
    assert second.end() == 0, second.log_path.read_text()

    number = versions.latest(storage)
    assert number is not None
    manifest = versions.read_manifest(storage, number)
    assert (manifest.steps, manifest.samples_seen, manifest.t_cut_min) == (300, 2400, 20)
    assert manifest.schedule_id == SCHEDULE.schedule_id
    last = checkpoints.load_newest(storage)
    assert last is not None
    assert last.step == 300
    assert len(storage.folders("checkpoints")) == 2
    assert SampleStore(storage).samples == 8 * 4, "all eight batches were stored once"
    stored = {entry.message_id for entry in SampleStore(storage).entries()}
    wait_until(
        lambda: {receipt.batch_id for receipt in sender.all_of(ReceiptV1)} == stored, "every receipt came"
    )
    wait_until(
        lambda: sender.all_of(RoundV1)[-1].backbone_version == number, "the last version was announced"
    )
    rounds = sender.all_of(RoundV1)
    assert (rounds[0].shape, rounds[0].schedule_id, rounds[0].backbone_version) == (
        SHAPE,
        SCHEDULE.schedule_id,
        0,
    )
    assert [each.number for each in rounds] == sorted(each.number for each in rounds)


def test_a_stopped_trainer_keeps_its_last_step_and_exits_in_order(
    worker: Callable[..., Worker], device: Callable[..., Device], tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "server")
    sender = device()
    for seed in range(4):
        sender.send_samples(sample_batch(seed))
    running = worker("train", "--storage", storage.url, *FEDERATION, "--checkpoint-steps", "100000")
    wait_until(lambda: running.metric("collafuse_train_steps_total") >= 10, "training was under way")
    running.process.terminate()
    assert running.end() == 0, running.log_path.read_text()
    checkpoint = checkpoints.load_newest(storage)
    assert checkpoint is not None
    assert checkpoint.step >= 10

    other = worker("train", "--storage", storage.url, *FEDERATION, "--schedule", "cosine")
    assert other.end() == 1
    line = other.log_path.read_text().splitlines()[-1]
    assert SCHEDULE.schedule_id in line
    assert line.startswith("error: ")
    assert "schedule_id" in line


def labelled(seed: int, *labels: int) -> SamplesV1:
    made = sample_batch(seed, count=len(labels))
    return SamplesV1(**(dict(made) | {"labels": np.array(labels, np.int32)}))


def test_rounds_ask_for_what_is_missing_until_nothing_is(
    worker: Callable[..., Worker], device: Callable[..., Device], tmp_path: Path
) -> None:
    sender = device()
    arguments = (
        *("train", "--storage", str(tmp_path / "server"), *FEDERATION, "--min-samples", "1000"),
        *("--samples-per-label", "4", "--round", "0.5", "--round-closes", "600"),
    )
    running = worker(*arguments)

    def asked() -> list[tuple[int, int, tuple[int, ...] | None]]:
        return [(each.number, each.releases_wanted, each.labels_wanted) for each in sender.all_of(RoundV1)]

    def heard(releases: int, labels: tuple[int, ...] | None) -> bool:
        return bool(asked()) and asked()[-1][1:] == (releases, labels)

    wait_until(lambda: heard(1, None), "every label was asked for")
    sender.send_samples(labelled(0, 0, 0, 0, 0, 1))
    wait_until(lambda: heard(1, (1, 2)), "the two scarce labels were asked for")
    running.process.terminate()
    assert running.end() == 0
    again = worker(*arguments)
    again.wait_for("round_opened")
    sender.send_samples(labelled(1, 1, 1, 1, 2, 2, 2, 2))
    wait_until(lambda: heard(0, None), "nothing more was asked for")

    numbers = [number for number, *_ in asked()]
    assert numbers == sorted(numbers)
    assert len(set(asked())) == len(set(numbers)) == 3, "a round of one number always asks the same"
    closes = [each.closes_in_seconds for each in sender.all_of(RoundV1)]
    assert all(left is not None and 0 < left <= 600 for left in closes)


def test_the_last_step_is_saved_before_ingest_has_finished_what_it_is_at(
    connection: Connection,
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
    tmp_path: Path,
) -> None:
    torch.set_num_threads(1)
    storage = Storage(tmp_path / "server")
    settings = TrainSettings(
        storage=storage.url,
        schedule=SCHEDULE.name,
        schedule_steps=T,
        channels=1,
        image_size=8,
        num_classes=CLASSES,
        base_channels=8,
        channel_multipliers=(1, 2),
        blocks_per_level=1,
        batch_size=8,
        min_samples=4,
        checkpoint_steps=10**6,
    )
    sender = device()
    sender.send_samples(sample_batch(0))
    registry = CollectorRegistry()
    training = assembly._train_worker(
        settings, storage, connection, TrainMetrics(registry), torch.device("cpu"), ALONE
    )
    stop = threading.Event()
    thread = threading.Thread(target=training.run, args=(stop,))

    def steps() -> float:
        return registry.get_sample_value("collafuse_train_steps_total") or 0.0

    connection.start()
    thread.start()
    try:
        wait_until(lambda: steps() >= 3, "training was under way")
        with training._store._index.writing:  # as long as a merge of a large store would hold it
            sender.send_samples(sample_batch(1))
            wait_until(lambda: queue_depth("samples") == 0, "ingest was at the next batch")
            stop.set()
            wait_until(lambda: bool(storage.folders("checkpoints")), "the last step was saved")
            assert thread.is_alive()
    finally:
        stop.set()
        thread.join()
    loaded = checkpoints.load_newest(storage)
    assert loaded is not None
    assert loaded.step == steps()


def test_a_store_whose_samples_are_all_held_out_waits_for_more_and_says_so(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "server")
    share = 0.5
    seeds = [seed for seed in range(40) if held_out_of(_id(seed), 1, share)][:3]
    store = SampleStore(storage)
    for seed in seeds:
        store.add(sample_batch(seed, count=1), _id(seed), "clinic", "d")
    running = worker(
        *("train", "--storage", storage.url, *FEDERATION),
        *("--min-samples", "2", "--held-out-share", str(share), "--steps", "3", "--exit-when-done"),
    )

    said = running.wait_for("waiting_for_samples")
    assert (said["stored"], said["held_out"]) == (3, 3)
    assert running.metric("collafuse_train_steps_total") == 0
    store.add(sample_batch(100, count=4), _id(100), "clinic", "d")
    assert running.end() == 0, running.log_path.read_text()


def _id(seed: int) -> str:
    count = 4 if seed == 100 else 1
    return digest(encode(sample_batch(seed, count=count)))


@pytest.mark.parametrize("port", [1])
def test_an_unreachable_broker_is_one_line_and_an_error(
    worker: Callable[..., Worker], tmp_path: Path, port: int
) -> None:
    started = worker(
        *("train", "--storage", str(tmp_path / "server"), *FEDERATION, "--connect-timeout", "0.5"),
        *("--broker-url", f"amqp://guest:secret-word@127.0.0.1:{port}/x"),
    )
    assert started.end() == 1
    text = started.log_path.read_text()
    assert text.splitlines()[-1].startswith(f"error: the broker at 127.0.0.1:{port}")
    assert "secret-word" not in text
