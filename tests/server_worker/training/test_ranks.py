"""Several ranks on a real broker: they equal one rank, stop together, and survive the death of any of them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.codec import digest, encode
from server_worker import versions
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.checkpoints import Checkpoint
from tests.conftest import wait_until
from tests.server_worker.backbones import CLASSES, SCHEDULE, T, sample_batch
from tests.server_worker.conftest import Worker
from tests.server_worker.devices import Device

FEDERATION = (
    *("--schedule-steps", str(T), "--channels", "1", "--image-size", "8", "--num-classes", str(CLASSES)),
    *("--schedule", SCHEDULE.name),
    *("--cut-min", "0.2", "--cut-max", "0.8", "--base-channels", "8", "--channel-multipliers", "1,2"),
    *("--blocks-per-level", "1", "--warmup-steps", "10", "--publish-steps", "100000"),
    *("--min-samples", "16"),
)


def filled(folder: Path, batches: int = 8) -> Storage:
    storage = Storage(folder)
    store = SampleStore(storage)
    for seed in range(batches):
        message = sample_batch(seed, t_cut=20 + 10 * (seed % 3))
        store.add(message, digest(encode(message)), f"client{seed % 2}", "d")
    return storage


def pids_of_ranks(worker: Worker) -> list[int]:
    path = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
    return sorted(int(word) for word in path.read_text().split()) if path.exists() else []


def newest(storage: Storage) -> Checkpoint:
    found = checkpoints.load_newest(storage)
    assert found is not None
    return found


def largest_difference(one: Checkpoint, other: Checkpoint) -> float:
    assert one.tensors.keys() == other.tensors.keys()
    return max(
        float((one.tensors[name].double() - other.tensors[name].double()).abs().max())
        for name in one.tensors
        if name.startswith(("model.", "ema."))
    )


def train(worker: Callable[..., Worker], storage: Storage, *arguments: str) -> Worker:
    """A train worker that exits after its last step."""
    return worker("train", "--storage", storage.url, *FEDERATION, "--exit-when-done", *arguments)


def ended(started: Worker) -> None:
    assert started.end() == 0, started.log_path.read_text()
    assert "Traceback" not in started.log_path.read_text()


def test_ranks_equal_one_rank_with_their_batches_together_also_after_a_change_of_their_number(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    one, two, other, again = (filled(tmp_path / name) for name in ("one", "two", "other", "again"))
    alone, together = ("--batch-size", "32"), ("--batch-size", "16", "--ranks", "2")
    plan = ("--lr", "2e-3", "--warmup-steps", "5", "--steps", "20", "--checkpoint-steps", "8")

    for running in (train(worker, one, *alone, *plan), train(worker, two, *together, *plan)):
        ended(running)
    for storage in (other, again):
        checkpoints.save(storage, checkpoints.load_at(two, 16))
    for running in (train(worker, other, *alone, *plan), train(worker, again, *together, *plan)):
        ended(running)

    ends = [newest(storage) for storage in (one, two, other, again)]
    assert [end.step for end in ends] == [20] * 4
    assert all(end.state == ends[0].state for end in ends)
    assert largest_difference(ends[0], ends[1]) < 1e-5
    assert largest_difference(ends[0], ends[2]) < 1e-5
    assert largest_difference(ends[1], ends[3]) == 0


def test_a_killed_rank_is_started_again_and_nothing_is_lost(
    worker: Callable[..., Worker], device: Callable[..., Device], tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "server")
    sender = device()
    sent = [sender.send_samples(sample_batch(seed)) for seed in range(6)]
    running = train(
        *(worker, storage, "--ranks", "2", "--batch-size", "16"),
        *("--steps", "160", "--checkpoint-steps", "20"),
    )
    wait_until(lambda: len(storage.folders("checkpoints")) > 0, "training was under way")
    victim = pids_of_ranks(running)[1]
    sent += [sender.send_samples(sample_batch(seed)) for seed in range(6, 12)]
    os.kill(victim, signal.SIGKILL)
    sent += [sender.send_samples(sample_batch(seed)) for seed in range(12, 18)]

    ended(running)

    assert [event["step"] for event in running.events() if event["event"] == "training_resumed"]
    assert newest(storage).step == 160
    store = SampleStore(storage)
    assert sorted(entry.message_id for entry in store.entries()) == sorted(sent)
    assert store.samples == 18 * 4
    number = versions.latest(storage)
    assert number is not None
    assert versions.read_manifest(storage, number).samples_seen == 160 * 32


@pytest.mark.parametrize("whom", ["launcher", "rank"])
def test_whoever_is_told_to_stop_all_ranks_stop_at_the_same_step(
    worker: Callable[..., Worker], tmp_path: Path, whom: str
) -> None:
    storage = filled(tmp_path / "server")
    running = train(
        *(worker, storage, "--ranks", "2", "--batch-size", "16", "--checkpoint-steps", "100000"),
    )
    wait_until(lambda: running.metric("collafuse_train_steps_total") >= 5, "training was under way")
    pid = running.process.pid if whom == "launcher" else pids_of_ranks(running)[1]

    os.kill(pid, signal.SIGTERM)

    ended(running)
    stopped = [event["step"] for event in running.events() if event["event"] == "training_stopped"]
    assert len(stopped) == 2
    assert set(stopped) == {newest(storage).step}


def test_ranks_whose_launcher_is_killed_end_by_themselves(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    storage = filled(tmp_path / "server")
    running = train(worker, storage, "--ranks", "2", "--batch-size", "16")
    wait_until(lambda: running.metric("collafuse_train_steps_total") >= 5, "training was under way")
    pids = pids_of_ranks(running)
    assert len(pids) == 2

    running.kill()

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the ranks were gone")
    assert newest(storage).step >= 5


def test_a_batch_that_ranks_cannot_share_is_one_line(worker: Callable[..., Worker], tmp_path: Path) -> None:
    refused = worker("train", "--storage", str(tmp_path), *FEDERATION, "--ranks", "2", "--batch-size", "40")

    assert refused.end() == 1
    assert "multiple of 16" in refused.log_path.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--broker-url", "amqp://guest:guest@127.0.0.1:1/x", "--connect-timeout", "0.5"), "the broker at"),
        (("--channel-multipliers", "1,2,2,2,2,2"), "cannot be halved"),
    ],
)
def test_what_is_wrong_in_every_rank_is_said_before_any_is_started(
    worker: Callable[..., Worker], tmp_path: Path, arguments: tuple[str, ...], line: str
) -> None:
    both = ("--ranks", "2", "--batch-size", "16")
    refused = worker("train", "--storage", str(tmp_path), *FEDERATION, *both, *arguments)

    assert refused.end() == 1
    text = refused.log_path.read_text()
    assert line in text.splitlines()[-1]
    assert "ranks_starting" not in text
    assert "Traceback" not in text


def test_an_error_that_would_come_again_ends_all_ranks_with_its_line(
    worker: Callable[..., Worker], tmp_path: Path
) -> None:
    storage = filled(tmp_path / "server")
    storage.write_folder("checkpoints/000000000100", {"state.json": b"{", "tensors.safetensors": b""})

    failed = train(worker, storage, "--ranks", "2", "--batch-size", "16", "--steps", "1")

    assert failed.end() == 1
    lines = failed.log_path.read_text().splitlines()
    assert lines[-1].startswith("error: none of the 1 checkpoints in ")
    assert lines[-1].endswith("move the folder away to begin anew")
    assert sum('"checkpoint_damaged"' in line for line in lines) == 1, "it was not tried again"
