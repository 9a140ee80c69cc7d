"""Segments: groups in one file, merged, drawn from by several processes, in a directory or a bucket."""

import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from broker.codec import digest, encode
from server_worker.errors import Damaged
from server_worker.samples import segments
from server_worker.samples.batch import Incoming, Outcome
from server_worker.samples.segment import SUFFIX
from server_worker.samples.store import SampleStore
from server_worker.storage import Buffer, Storage
from tests.conftest import WAIT_SECONDS
from tests.server_worker.backbones import SHAPE, sample_batch

ROOT = Path(__file__).parents[3]


def incoming(
    seed: int, client: str = "clinic", device: str = "d1", count: int = 4, dtype: str = "float16"
) -> Incoming:
    message = sample_batch(seed, count=count, dtype=dtype)
    return Incoming(message, digest(encode(message)), client, device)


def files(root: Path) -> list[Path]:
    return sorted((root / "segments").glob(f"*{SUFFIX}"))


def drawn(store: SampleStore, size: int = 50, seed: int = 7) -> np.ndarray:
    return store.batch(np.random.default_rng(seed), size).x


def test_a_group_is_one_file_per_kind_that_any_reader_of_safetensors_opens(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    group = [incoming(1), incoming(2, "plant"), incoming(3, dtype="int8"), incoming(4, dtype="float32")]
    assert store.add_many(group) == [Outcome.STORED] * 4
    assert len(files(tmp_path)) == 3
    shapes = sorted(
        (str(tensors["x"].dtype), len(tensors["x"]), set(tensors))
        for tensors in map(load_file, files(tmp_path))
    )
    assert shapes == [("float16", 8, {"x"}), ("float32", 4, {"x"}), ("int8", 4, {"x", "scale"})]
    for each in group:
        (entry,) = (entry for entry in store.entries() if entry.message_id == each.message_id)
        np.testing.assert_array_equal(store.tensors(entry).x, each.message.x)
    assert drawn(store).dtype == np.float32


def test_what_is_twice_in_a_group_is_stored_once(storage: Storage) -> None:
    store = SampleStore(storage)
    assert store.add_many([incoming(1), incoming(1)]) == [Outcome.STORED, Outcome.REPEATED]
    assert store.add_many([incoming(2), incoming(1)]) == [Outcome.STORED, Outcome.REPEATED]
    assert SampleStore(storage).samples == store.samples == 8


def test_merging_changes_no_draw_and_leaves_few_files(storage: Storage) -> None:
    store, reader = SampleStore(storage), SampleStore(storage, quarantine=False)
    for seed in range(12):
        store.add_many([incoming(seed, f"client-{seed % 3}", dtype="float16" if seed % 2 else "int8")])
    reader.refresh()
    before = drawn(reader)
    assert store.compact() == 10
    assert len(store.snapshot()) == 2
    for each in (store, reader, SampleStore(storage)):
        np.testing.assert_array_equal(drawn(each), before)
    reader.refresh()
    np.testing.assert_array_equal(drawn(reader), before)
    assert reader.snapshot() == store.snapshot()
    assert store.compact() == 0


def test_a_reader_that_finds_a_segment_gone_looks_again(storage: Storage) -> None:
    store = SampleStore(storage)
    for seed in range(6):
        store.add_many([incoming(seed)])
    reader = SampleStore(storage, quarantine=False, cache_bytes=0)
    store.compact()
    np.testing.assert_array_equal(drawn(reader), drawn(store))


class MergedMeanwhile(Storage):
    """A storage in which others merge everything between a listing and what is done with it."""

    def names(self, folder: str) -> list[str]:
        found = super().names(folder)
        SampleStore(Storage(self.url)).compact()
        return found


def test_segments_that_go_between_the_listing_and_the_reading_are_found_where_they_went(
    tmp_path: Path,
) -> None:
    store = SampleStore(Storage(tmp_path))
    for seed in range(6):
        store.add_many([incoming(seed)])
    reader = SampleStore(MergedMeanwhile(tmp_path), quarantine=False)
    assert reader.samples == 24
    assert len(reader.snapshot()) == 1
    store.refresh()
    for seed in range(6, 12):
        store.add_many([incoming(seed)])
    assert reader.refresh() == 6
    assert reader.samples == 48


def test_while_samples_come_in_only_what_has_gathered_is_merged(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    counts = []
    for seed in range(70):
        store.add_many([incoming(seed, count=1)])
        store.compact(everything=False)
        counts.append(len(files(tmp_path)))
    assert max(counts) == 31
    assert SampleStore(Storage(tmp_path)).samples == 70


def test_a_batch_in_two_segments_counts_once_and_merging_drops_one(tmp_path: Path) -> None:
    SampleStore(Storage(tmp_path / "a")).add_many([incoming(1)])
    SampleStore(Storage(tmp_path / "b"), clock=lambda: 1.0).add_many([incoming(1), incoming(2)])
    (other,) = files(tmp_path / "b")
    other.rename(tmp_path / "a" / "segments" / other.name)
    store = SampleStore(Storage(tmp_path / "a"))
    assert (store.samples, store.copies, len(store.entries())) == (8, 1, 2)
    store.compact()
    assert (store.samples, store.copies, len(files(tmp_path / "a"))) == (8, 0, 1)


def test_a_draw_is_from_what_was_adopted_wherever_it_has_moved(storage: Storage) -> None:
    leader, rank = SampleStore(storage), SampleStore(storage, quarantine=False)
    for seed in range(4):
        leader.add_many([incoming(seed)])
    view = leader.snapshot()
    rank.adopt(view)
    leader.adopt(view)
    before = drawn(leader)
    for seed in range(4, 8):
        leader.add_many([incoming(seed, "plant")])
    leader.compact()
    rank.refresh()
    for each in (leader, rank):
        np.testing.assert_array_equal(drawn(each), before)
    leader.adopt(view)
    np.testing.assert_array_equal(drawn(leader), before)
    leader.adopt(leader.snapshot())
    assert not np.array_equal(drawn(leader), before)
    with pytest.raises(Damaged, match="take a new snapshot"):
        SampleStore(storage, quarantine=False).adopt(view)


def test_ranks_draw_the_parts_of_one_batch(storage: Storage) -> None:
    writer = SampleStore(storage)
    writer.add_many([incoming(seed, f"client-{seed % 2}") for seed in range(6)])
    whole = writer.batch(np.random.default_rng(1), 32)
    parts = []
    for rank in range(4):
        rng = np.random.default_rng(1)
        reader = SampleStore(storage, quarantine=False)
        parts.append(reader.batch(rng, 32, rows=slice(rank * 8, rank * 8 + 8)))
        assert rng.random() == pytest.approx(np.random.default_rng(1).random(2 * 32 + 1)[-1])
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), whole.x)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
    assert writer.batch(np.random.default_rng(1), 32, rows=slice(32, 40)).x.shape == (0, *SHAPE)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 9)), min_size=1, max_size=8),
    share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_held_out_is_never_trained_on_and_the_rest_is(
    sizes: list[tuple[str, int]], share: float, seed: int
) -> None:
    storage = Storage(f"memory://held-{uuid.uuid4().hex}")
    store = SampleStore(storage, held_out_share=share)
    store.add_many([incoming(number, client, count=count) for number, (client, count) in enumerate(sizes)])
    drawn_from: list[set[bytes]] = []
    for held_out in (False, True):
        try:
            batch = store.batch(np.random.default_rng(seed), 600, held_out=held_out)
        except Damaged:
            batch = None
        drawn_from.append(set() if batch is None else {row.tobytes() for row in batch.x})
    trained, held = drawn_from
    assert not trained & held
    assert bool(held) == bool(store.held_out_samples)
    total = sum(count for _, count in sizes)
    assert abs(store.held_out_samples - share * total) <= len(sizes)
    MemoryFileSystem.store.clear()


def test_the_share_held_out_is_right_on_the_whole_even_of_single_samples(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path), held_out_share=0.2)
    store.add_many([incoming(seed, f"client-{seed % 2}", count=1) for seed in range(400)])
    assert 55 < store.held_out_samples < 105
    clients = Counter(store.batch(np.random.default_rng(0), 1000, held_out=True).t_cut.tolist())
    assert clients.total() == 1000


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    SampleStore(Storage(tmp_path)).add_many([incoming(seed, count=200) for seed in range(20)])
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    store = SampleStore(Storage(tmp_path))
    assert (store.samples, store.quarantined) == (4000, {})
    assert len(drawn(store, 500)) == 500
    assert (store.samples, len(store.quarantined)) == (3800, 1)
    assert (tmp_path / "quarantine" / path.name).exists()
    assert SampleStore(Storage(tmp_path)).samples == 3800


def test_more_segments_than_may_be_open_at_a_time_are_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAPPED_FROM_BYTES", 1)
    monkeypatch.setattr(segments, "MAPPED_SEGMENTS", 4)
    store = SampleStore(Storage(tmp_path))
    for seed in range(20):
        store.add_many([incoming(seed)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len(drawn(store, 300)) == 300
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 5
    assert drawn(store).shape == (50, *SHAPE)


WRITER = """
    import sys
    from tests.server_worker.samples.test_segments import SampleStore, Storage, incoming
    store, first, merging = SampleStore(Storage(sys.argv[1])), int(sys.argv[2]), sys.argv[3] == "merge"
    for number in range(first, first + 25):
        if merging:
            store.compact()
        else:
            store.add_many([incoming(number, count=2), incoming(10_000 + number % 100, count=1)])
"""


def test_two_processes_that_write_and_two_that_merge_lose_nothing(tmp_path: Path) -> None:
    SampleStore(Storage(tmp_path)).add_many([incoming(1_000)])
    roles = [("0", "write"), ("100", "write"), ("0", "merge"), ("0", "merge")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), *role],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for role in roles
    ]
    assert [process.wait(60) for process in processes] == [0] * 4
    numbers = [*range(25), *range(100, 125)]
    wanted = {incoming(number, count=2).message_id for number in numbers}
    wanted |= {incoming(10_000 + number, count=1).message_id for number in range(25)}
    wanted.add(incoming(1_000).message_id)
    store = SampleStore(Storage(tmp_path))
    assert {entry.message_id for entry in store.entries()} == wanted
    assert store.samples == 2 * 50 + 25 + 4
    assert store.quarantined == {}
    store.compact()
    assert (store.copies, len(files(tmp_path))) == (0, 1)
    assert len(drawn(store, 2000)) == 2000


def test_of_two_copies_merging_keeps_the_one_that_is_whole(tmp_path: Path) -> None:
    shared = incoming(1)
    SampleStore(Storage(tmp_path / "a"), clock=lambda: 1.0).add_many([shared])
    SampleStore(Storage(tmp_path / "b"), clock=lambda: 2.0).add_many([shared])
    (damaged,), (whole,) = files(tmp_path / "a"), files(tmp_path / "b")
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(bytes(data))
    whole.rename(damaged.with_name(whole.name))
    store = SampleStore(Storage(tmp_path / "a"))
    store.compact()
    (entry,) = store.entries()
    np.testing.assert_array_equal(store.tensors(entry).x, shared.message.x)
    assert (store.copies, store.quarantined) == (0, {})


def test_samples_that_come_in_do_not_make_the_table_anew_each_time(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    store.add_many([incoming(seed) for seed in range(3000)])
    drawn(store)
    tables = set()
    for seed in range(3000, 3005):
        store.add_many([incoming(seed)])
        tables.add(store.batch(np.random.default_rng(7), 50).x.tobytes())
    assert len(tables) == 1
    store.refresh()
    assert drawn(store).tobytes() not in tables
    before = drawn(store)
    store.add_many([incoming(5000, "plant")])
    store.forget("clinic")
    assert not {row.tobytes() for row in drawn(store)} & {row.tobytes() for row in before}


class RefreshedMeanwhile(Storage):
    """A storage in which, from the first segment that is written, somebody waits to list."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waiting: threading.Thread | None = None
        self.refreshed_before: list[bool] = []
        self.refresh: Callable[[], object] | None = None

    def write(self, path: str, data: Buffer | Sequence[Buffer]) -> None:
        if self.refresh is not None and self.waiting is None:
            self.waiting = threading.Thread(target=self.refresh)
            self.waiting.start()
        elif self.waiting is not None:
            self.waiting.join(WAIT_SECONDS)
            self.refreshed_before.append(not self.waiting.is_alive())
        super().write(path, data)


def test_who_waits_to_list_has_its_turn_between_two_merges(tmp_path: Path) -> None:
    storage = RefreshedMeanwhile(tmp_path)
    store = SampleStore(storage)
    for seed, dtype in enumerate(["float16", "int8"] * 2):
        store.add_many([incoming(seed, dtype=dtype)])
    storage.refresh = store.refresh
    assert store.compact() == 2
    assert storage.refreshed_before == [True]
