"""Killed at any operation on the file system, in the middle of any write: the store opens, and has what was promised."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.codec import digest, encode
from broker.contract.samples import SamplesV1
from server_worker.samples.batch import Incoming, Outcome
from server_worker.samples.limits import StoreLimits
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.server_worker.backbones import sample_batch

DAY_SECONDS = 86_400.0
NEVER = 10**9
COUNTED = {"open", "os.rename", "os.remove", "os.mkdir", "os.scandir"}

BATCHES: list[tuple[str, str, SamplesV1]] = [
    ("clinic", "d1", sample_batch(0, count=3)),
    ("plant", "d1", sample_batch(1, count=5)),
    ("clinic", "d2", sample_batch(2, count=2, dtype="int8")),
    ("ward", "d1", sample_batch(3, count=4)),
    ("ward", "d2", sample_batch(4, count=1)),
]
IDS = [digest(encode(message)) for _, _, message in BATCHES]


def incoming(number: int) -> Incoming:
    client, device, message = BATCHES[number]
    return Incoming(message, IDS[number], client, device)


def steps(root: Path) -> list[tuple[str, Callable[[], object]]]:
    """Everything that writes: what each step is called, and what it does. May be done again and again."""
    day = [0.0]
    store = SampleStore(
        Storage(root), limits=StoreLimits(retention_days=10), clock=lambda: day[0] * DAY_SECONDS
    )

    def later(days: float) -> None:
        day[0] = days

    return [
        ("old", lambda: store.add_many([incoming(0), incoming(1)])),
        ("later", lambda: later(20)),
        ("new", lambda: store.add_many([incoming(2), incoming(3)])),
        ("merged", store.compact),
        ("forgotten", lambda: store.forget("clinic")),
        ("expired", store.maintain),
        ("newest", lambda: store.add_many([incoming(4)])),
        ("merged again", store.compact),
    ]


def killed_at(operation: int, root: Path) -> tuple[list[str], int]:
    """Do all steps in a process that is killed at its n-th operation; returns the steps it finished, and its operations."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run(operation, root, writing)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or operation == NEVER, "the process ended by itself"
    return lines[:-1] if operation == NEVER else lines, int(lines[-1]) if operation == NEVER else 0


def _run(operation: int, root: Path, told: int) -> None:
    done = 0
    write, fsync = os.write, os.fsync

    def count() -> None:
        nonlocal done
        done += 1
        if done == operation:
            os.kill(os.getpid(), signal.SIGKILL)

    def half_written(descriptor: int, data: Any) -> int:
        if done + 1 == operation:
            write(descriptor, data[: len(data) // 2])
        count()
        return write(descriptor, data)

    def synced(descriptor: int) -> None:
        count()
        fsync(descriptor)

    code = 1
    try:
        os.write, os.fsync = half_written, synced  # type: ignore[assignment]  # file descriptors are all we sync
        sys.addaudithook(lambda event, _: count() if event in COUNTED else None)
        for name, step in steps(root):
            step()
            write(told, f"{name}\n".encode())
        write(told, f"{done}\n".encode())
        code = 0
    finally:
        os._exit(code)


def check(root: Path, finished: list[str]) -> None:
    store = SampleStore(Storage(root), quarantine=False)
    present = {entry.message_id: entry for entry in store.entries()}
    assert store.quarantined == {}, "something half was left"
    for number, message_id in enumerate(IDS):
        if message_id in present:
            np.testing.assert_array_equal(store.tensors(present[message_id]).x, BATCHES[number][2].x)
    assert store.samples == sum(entry.samples for entry in present.values())
    must = {
        IDS[0]: "old" in finished and "merged" not in finished,
        IDS[1]: "old" in finished and "forgotten" not in finished,
        IDS[2]: "new" in finished and "merged" not in finished,
        IDS[3]: "new" in finished,
        IDS[4]: "newest" in finished,
    }
    assert {message_id for message_id, stored in must.items() if stored} <= present.keys()
    if "forgotten" in finished:
        assert not {IDS[0], IDS[2]} & present.keys()
    if "expired" in finished:
        assert IDS[1] not in present


def finish(root: Path) -> None:
    """Doing it all again comes to the same end, whatever was left."""
    for _, step in steps(root):
        step()
    store = SampleStore(Storage(root))
    assert [entry.message_id for entry in store.entries()] == sorted([IDS[3], IDS[4]])
    assert store.copies == 0
    (tombstone,) = store.tombstones.forgotten
    assert tombstone.complete
    assert set(tombstone.ids) == {IDS[0], IDS[2]}
    assert sum(receipt["samples"] for receipt in tombstone.receipts) == 5
    outcomes = store.add_many([incoming(number) for number in range(5)])
    assert outcomes == [
        Outcome.FORGOTTEN,
        Outcome.REPEATED,
        Outcome.FORGOTTEN,
        Outcome.REPEATED,
        Outcome.REPEATED,
    ]
    left = b"".join(path.read_bytes() for path in root.rglob("*.safetensors"))
    for number in (0, 1, 2):
        assert BATCHES[number][2].x[0].tobytes() not in left


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> int:
    root = tmp_path_factory.mktemp("whole")
    finished, count = killed_at(NEVER, root)
    check(root, finished)
    finish(root)
    return count


@pytest.mark.parametrize("part", range(8))
def test_a_kill_at_any_operation_loses_nothing_and_erases_what_it_promised(
    operations: int, part: int, tmp_path: Path
) -> None:
    assert operations > 100
    for operation in range(1 + part, operations + 1, 8):
        root = tmp_path / str(operation)
        finished, _ = killed_at(operation, root)
        check(root, finished)
        finish(root)
