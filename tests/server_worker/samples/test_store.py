import json
import os
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from broker.codec import digest, encode
from broker.contract.samples import SamplesV1
from server_worker.errors import Damaged, Unreadable
from server_worker.samples.batch import Outcome
from server_worker.samples.segments import Segments
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.server_worker.backbones import SCHEDULE, SHAPE, sample_batch


def add(
    store: SampleStore, message: SamplesV1, client: str = "clinic", device: str = "d1"
) -> tuple[str, Outcome]:
    message_id = digest(encode(message))
    return message_id, store.add(message, message_id, client, device)


def file_of(root: Path, message_id: str) -> Path:
    """The segment that a batch is in."""
    return next(path for path in (root / "segments").iterdir() if message_id.encode() in path.read_bytes())


def flip_the_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_a_repeat_is_stored_once(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    message = sample_batch()
    assert add(store, message)[1] == Outcome.STORED
    assert add(store, message)[1] == Outcome.REPEATED
    assert add(SampleStore(Storage(tmp_path)), message)[1] == Outcome.REPEATED
    assert store.samples == 4
    assert len(list((tmp_path / "segments").iterdir())) == 1


def test_a_batch_that_another_process_stored_is_a_repeat(tmp_path: Path) -> None:
    one, other = SampleStore(Storage(tmp_path)), SampleStore(Storage(tmp_path))
    assert add(one, sample_batch())[1] == Outcome.STORED
    assert add(other, sample_batch())[1] == Outcome.REPEATED
    assert other.samples == 4


def test_opening_reads_the_index_back(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    add(store, sample_batch(1, count=3, t_cut=20), "clinic", "d1")
    add(store, sample_batch(2, count=5, t_cut=40), "clinic", "d2")
    add(store, sample_batch(3, count=2, t_cut=40), "plant", "d1")
    again = SampleStore(Storage(tmp_path))
    assert again.entries() == store.entries()
    assert again.samples == 10
    assert again.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert {entry.device for entry in again.entries(client="clinic")} == {"d1", "d2"}
    assert [entry.samples for entry in again.entries(t_cut=20)] == [3]
    assert all(1 in entry.labels for entry in again.entries(label=1))
    assert again.least_t_cut() == 20


def test_a_reader_sees_what_another_process_appends(tmp_path: Path) -> None:
    reader, writer = SampleStore(Storage(tmp_path)), SampleStore(Storage(tmp_path))
    add(writer, sample_batch(1))
    assert reader.samples == 0
    assert reader.refresh() == 1
    assert reader.samples == 4
    assert reader.refresh() == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_samples_come_back_as_they_were_sent(tmp_path: Path, dtype: str) -> None:
    store = SampleStore(Storage(tmp_path))
    message = sample_batch(5, count=6, dtype=dtype)
    assert message.labels is not None
    add(store, message)
    drawn = SampleStore(Storage(tmp_path)).batch(np.random.default_rng(0), 64)
    assert drawn.x.shape == (64, *SHAPE)
    sent = {
        row.tobytes(): label
        for row, label in zip(message.dequantised(), message.labels.tolist(), strict=True)
    }
    assert [sent[row.tobytes()] for row in drawn.x] == drawn.labels.tolist()
    assert set(drawn.t_cut.tolist()) == {40}
    assert not drawn.t.any()


def test_pairs_keep_their_time_step_and_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x, noise = (rng.standard_normal((3, *SHAPE)).astype(np.float32) for _ in range(2))
    message = SamplesV1.pack(
        x, schedule_id=SCHEDULE.schedule_id, t_cut=40, release=0, t=np.array([50, 60, 70]), noise=noise
    )
    store = SampleStore(Storage(tmp_path))
    add(store, message)
    drawn = store.batch(np.random.default_rng(0), 32)
    by_t = dict(zip((50, 60, 70), noise.astype(np.float16).astype(np.float32), strict=True))
    assert set(drawn.t.tolist()) == {50, 60, 70}
    assert all(np.array_equal(by_t[int(t)], given) for t, given in zip(drawn.t, drawn.noise, strict=True))


def test_a_client_with_much_data_does_not_drown_one_with_little(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    for seed in range(9):
        add(store, sample_batch(seed, count=30, t_cut=40), "large")
    add(store, sample_batch(99, count=2, t_cut=30), "small")
    drawn = store.batch(np.random.default_rng(0), 2000)
    share = Counter(drawn.t_cut.tolist())[30] / 2000
    assert 0.45 < share < 0.55


def test_what_is_drawn_depends_on_what_is_stored_and_not_on_its_order(tmp_path: Path) -> None:
    first, second = SampleStore(Storage(tmp_path / "a")), SampleStore(Storage(tmp_path / "b"))
    for seed in range(5):
        add(first, sample_batch(seed))
        add(second, sample_batch(4 - seed))
    one, other = (store.batch(np.random.default_rng(7), 50) for store in (first, second))
    assert np.array_equal(one.x, other.x)


def test_a_truncated_file_is_set_aside_and_the_rest_stays_usable(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    broken, _ = add(store, sample_batch(1))
    add(store, sample_batch(2))
    path = file_of(tmp_path, broken)
    path.write_bytes(path.read_bytes()[:-7])
    again = SampleStore(Storage(tmp_path))
    assert again.samples == 4
    assert list(again.quarantined) == [broken]
    assert "digest" in again.quarantined[broken]
    assert not path.exists()
    assert (tmp_path / "quarantine" / path.name).exists()
    assert again.batch(np.random.default_rng(0), 8).x.shape[0] == 8


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, (5).to_bytes(8, "little") + b"[[[[["])
def test_a_file_of_garbage_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "segments" / f"{'ab' * 32}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    store = SampleStore(Storage(tmp_path))
    assert store.samples == 0
    assert list(store.quarantined) == ["ab" * 32]


def test_a_flipped_bit_is_found_when_the_samples_are_drawn(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    broken, _ = add(store, sample_batch(1))
    add(store, sample_batch(2), "other")
    path = file_of(tmp_path, broken)
    flip_the_last_bit(path)
    drawn = store.batch(np.random.default_rng(0), 16)
    assert set(drawn.x[:, 0, 0, 0].tolist()) <= set(sample_batch(2).dequantised()[:, 0, 0, 0].tolist())
    assert list(store.quarantined) == [broken]
    assert store.samples == 4


def test_a_damaged_batch_that_is_delivered_again_is_stored_again(tmp_path: Path) -> None:
    broken, _ = add(SampleStore(Storage(tmp_path)), sample_batch(1))
    flip_the_last_bit(file_of(tmp_path, broken))
    store = SampleStore(Storage(tmp_path))
    with pytest.raises(Damaged):
        store.batch(np.random.default_rng(0), 4)
    assert list(store.quarantined) == [broken]
    assert add(store, sample_batch(1)) == (broken, Outcome.STORED)
    assert store.quarantined == {}
    assert store.batch(np.random.default_rng(0), 4).x.shape[0] == 4


def test_a_mere_reader_moves_nothing(tmp_path: Path) -> None:
    broken, _ = add(SampleStore(Storage(tmp_path)), sample_batch(1))
    path = file_of(tmp_path, broken)
    path.write_bytes(b"broken")
    reader = SampleStore(Storage(tmp_path), quarantine=False)
    assert list(reader.quarantined) == [path.stem]
    assert path.exists()


def test_an_empty_store_says_that_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="no samples"):
        SampleStore(Storage(tmp_path)).batch(np.random.default_rng(0), 4)


def test_a_small_cache_draws_the_same(tmp_path: Path) -> None:
    writer = SampleStore(Storage(tmp_path))
    for seed in range(6):
        add(writer, sample_batch(seed))
    large, small = SampleStore(Storage(tmp_path)), SampleStore(Storage(tmp_path), cache_bytes=0)
    one, other = (store.batch(np.random.default_rng(1), 40) for store in (large, small))
    assert np.array_equal(one.x, other.x)


def test_the_header_alone_says_who_sent_what(tmp_path: Path) -> None:
    message_id, _ = add(SampleStore(Storage(tmp_path)), sample_batch(1), "clinic", "d7")
    data = file_of(tmp_path, message_id).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["collafuse"])
    (batch,) = about["batches"]
    assert (batch["client"], batch["device"], batch["t_cut"]) == ("clinic", "d7", 40)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let the kernel open no further file for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.dup(0)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_cannot_be_read_just_now_is_not_damaged(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path), cache_bytes=0)
    (entry,) = (add(store, sample_batch(1)), store.entries())[1]
    with no_more_descriptors():
        with pytest.raises(Unreadable, match="segments/"):
            store.batch(np.random.default_rng(0), 4)
        with pytest.raises(Unreadable):
            store.tensors(entry)
        assert store.refresh() == 0
    assert store.quarantined == {}
    assert len(store.batch(np.random.default_rng(0), 4).x) == 4
    assert not (tmp_path / "quarantine").exists()


def test_a_segment_that_cannot_be_opened_is_left_and_found_later(tmp_path: Path) -> None:
    message_id, _ = add(SampleStore(Storage(tmp_path)), sample_batch(1))
    path = file_of(tmp_path, message_id)
    kept = path.rename(tmp_path / "kept")
    path.mkdir()  # opening a folder fails as a failing disk does, for root too
    store = SampleStore(Storage(tmp_path))
    assert (store.samples, store.quarantined) == (0, {})
    path.rmdir()
    kept.rename(path)
    assert store.refresh() == 1
    assert len(store.batch(np.random.default_rng(0), 4).x) == 4


def test_a_broken_link_among_the_segments_does_not_hold_up_anything(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path), cache_bytes=0)
    message_id, _ = add(store, sample_batch(1))
    path = file_of(tmp_path, message_id)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert SampleStore(Storage(tmp_path)).samples == 0
    with pytest.raises(Unreadable, match="broken link"):
        store.batch(np.random.default_rng(0), 4)
    assert add(store, sample_batch(2))[1] == Outcome.STORED


def test_a_damaged_segment_that_another_process_sets_aside_first_is_set_aside(tmp_path: Path) -> None:
    message_id, _ = add(SampleStore(Storage(tmp_path)), sample_batch(1))
    path = file_of(tmp_path, message_id)
    flip_the_last_bit(path)
    ranks = [SampleStore(Storage(tmp_path)) for _ in range(2)]
    for rank in ranks:
        with pytest.raises(Damaged, match="no samples"):
            rank.batch(np.random.default_rng(0), 4)
    assert ranks[0].quarantined.keys() == {message_id}
    assert [each.name for each in (tmp_path / "quarantine").iterdir()] == [path.name]
    Segments(Storage(tmp_path), 0).set_aside(path.stem)
