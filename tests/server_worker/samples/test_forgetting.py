"""Quotas, retention and forgetting: what is refused, what is erased, and that it stays away."""

import json
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from broker.codec import digest, encode
from server_worker.errors import Damaged, StorageFull
from server_worker.samples.batch import Incoming, Outcome
from server_worker.samples.forgetting import begin_anew, digest_of
from server_worker.samples.limits import StoreLimits
from server_worker.samples.store import SampleStore
from server_worker.samples.tombstones import EXPIRED_FILES, Tombstone
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS
from tests.server_worker.backbones import publish_backbone, sample_batch

DAY_SECONDS = 86_400.0


def incoming(seed: int, client: str = "clinic", device: str = "d1", count: int = 4) -> Incoming:
    message = sample_batch(seed, count=count)
    return Incoming(message, digest(encode(message)), client, device)


def owners(store: SampleStore) -> set[tuple[str, str]]:
    return {(entry.client, entry.device) for entry in store.entries()}


def everything(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_a_client_above_its_quota_is_refused_and_others_are_not(storage: Storage) -> None:
    size = incoming(0).size_bytes
    store = SampleStore(storage, limits=StoreLimits(client_max_bytes=2 * size))
    group = [incoming(seed) for seed in range(3)] + [incoming(3, "plant")]
    assert store.add_many(group) == [Outcome.STORED, Outcome.STORED, Outcome.OVER_QUOTA, Outcome.STORED]
    assert store.add_many([group[2], group[0]]) == [Outcome.OVER_QUOTA, Outcome.REPEATED]
    raised = SampleStore(storage, limits=StoreLimits(client_max_bytes=3 * size))
    assert raised.add_many([group[2]]) == [Outcome.STORED]


def test_a_full_store_takes_what_fits_and_says_what_does_not(storage: Storage) -> None:
    size = incoming(0).size_bytes
    store = SampleStore(storage, limits=StoreLimits(max_bytes=3 * size))
    assert store.add_many([incoming(0), incoming(1)])[0] == Outcome.STORED
    assert store.add_many([incoming(2), incoming(0)]) == [Outcome.NO_ROOM, Outcome.REPEATED]
    with pytest.raises(StorageFull, match="store_max_bytes"):
        store.check_quota(2**30, 0)
    store.forget("clinic")
    store.check_quota(2**30, 0)
    assert store.add_many([incoming(2, "plant")]) == [Outcome.STORED]


def test_what_is_too_old_is_erased_and_a_late_repeat_is_not_stored_again(storage: Storage) -> None:
    now = [0.0]
    store = SampleStore(storage, limits=StoreLimits(retention_days=7), clock=lambda: now[0])
    old, new = incoming(1), incoming(2)
    store.add_many([old])
    now[0] = 6 * DAY_SECONDS
    store.add_many([new])
    store.maintain()
    assert store.samples == 8
    now[0] = 8 * DAY_SECONDS
    store.maintain()
    for each in (store, SampleStore(storage)):
        assert [entry.message_id for entry in each.entries()] == [new.message_id]
        assert each.add_many([old, new]) == [Outcome.REPEATED, Outcome.REPEATED]
        assert each.tombstones.expired == 1


def test_the_lists_of_what_was_too_old_become_one_list(tmp_path: Path) -> None:
    now = [0.0]
    store = SampleStore(
        Storage(tmp_path),
        limits=StoreLimits(retention_days=1),
        clock=lambda: now[0],
        monotonic=lambda: now[0],
    )
    sent = [incoming(seed, count=1) for seed in range(EXPIRED_FILES + 2)]
    for each in sent:
        store.add_many([each])
        now[0] += 2 * DAY_SECONDS
        store.maintain()
        now[0] += DAY_SECONDS
        store.maintain()
    assert len(list((tmp_path / "expired").iterdir())) < 5
    assert set(SampleStore(Storage(tmp_path)).add_many(sent)) == {Outcome.REPEATED}


def test_a_forgotten_client_is_gone_from_every_file_and_every_draw(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    store, reader = SampleStore(storage), SampleStore(storage, quarantine=False)
    theirs, others = (
        [incoming(seed, count=3) for seed in range(3)],
        [incoming(9, "plant"), incoming(8, "ward")],
    )
    store.add_many([*theirs[:2], others[0]])
    store.add_many([theirs[2], others[1]])
    reader.refresh()
    reader.adopt(reader.snapshot())
    receipt = store.forget("clinic")
    assert (receipt.batches, receipt.samples, receipt.segments_rewritten) == (3, 9, 2)
    assert receipt.size_bytes == sum(each.size_bytes for each in theirs)
    assert receipt.ids_digest == digest_of(each.message_id for each in theirs)
    left = everything(tmp_path)
    assert not any(row.tobytes() in left for each in theirs for row in each.message.x)
    assert all(each.message.x.tobytes() in left for each in others)
    reader.refresh()
    known = {row.tobytes() for each in others for row in each.message.dequantised()}
    for each in (store, reader, SampleStore(storage)):
        assert owners(each) == {("plant", "d1"), ("ward", "d1")}
        assert {row.tobytes() for row in each.batch(np.random.default_rng(0), 200).x} == known


def test_a_forgotten_sender_is_not_stored_again_until_lifted_and_the_erased_never(storage: Storage) -> None:
    store = SampleStore(storage)
    erased = incoming(1)
    store.add_many([erased, incoming(2, device="d2")])
    other = SampleStore(storage)
    store.forget("clinic", "d1")
    assert owners(store) == {("clinic", "d2")}
    group = [erased, incoming(3), incoming(4, device="d2")]
    assert other.add_many(group) == [Outcome.FORGOTTEN, Outcome.FORGOTTEN, Outcome.STORED]
    assert store.lift("clinic", "d1") is not None
    assert store.lift("clinic", "d1") is None
    assert other.add_many(group) == [Outcome.FORGOTTEN, Outcome.STORED, Outcome.REPEATED]


def test_forgetting_again_erases_what_came_since_and_keeps_every_receipt(storage: Storage) -> None:
    store = SampleStore(storage, clock=lambda: 1000.0)
    first, second = incoming(1), incoming(2)
    store.add_many([first])
    store.forget("clinic")
    store.lift("clinic")
    store.add_many([second])
    again = store.forget("clinic")
    assert again.ids_digest == digest_of([second.message_id])
    (tombstone,) = SampleStore(storage).tombstones.forgotten
    assert set(tombstone.ids) == {first.message_id, second.message_id}
    assert [receipt["batches"] for receipt in tombstone.receipts] == [1, 1]
    assert json.loads(json.dumps(tombstone.receipts[-1])) == json.loads(json.dumps(asdict(again)))


def test_asking_again_gives_the_same_receipt(storage: Storage) -> None:
    store = SampleStore(storage)
    store.add_many([incoming(1)])
    assert store.forget("clinic") == SampleStore(storage).forget("clinic")
    assert len(SampleStore(storage).tombstones.forgotten[0].receipts) == 1


def test_any_writer_finishes_a_forgetting_that_was_killed(storage: Storage) -> None:
    store = SampleStore(storage)
    store.add_many([incoming(1), incoming(2, "plant")])
    Tombstone("clinic", None).write(storage)
    reader = SampleStore(storage, quarantine=False)
    assert owners(reader) == {("plant", "d1")}
    store.maintain()
    (tombstone,) = store.tombstones.forgotten
    assert tombstone.complete
    assert tombstone.receipts[0]["samples"] == 4


def test_what_a_killed_writer_left_behind_a_complete_forgetting_is_erased(tmp_path: Path) -> None:
    late = incoming(1)
    SampleStore(Storage(tmp_path / "late")).add_many([late, incoming(2, "plant")])
    SampleStore(Storage(tmp_path / "store")).forget("clinic")
    (segment,) = (tmp_path / "late" / "segments").iterdir()
    (tmp_path / "store" / "segments").mkdir()
    segment.rename(tmp_path / "store" / "segments" / segment.name)
    store = SampleStore(Storage(tmp_path / "store"))
    assert owners(store) == {("plant", "d1")}
    store.maintain()
    assert late.message.x.tobytes() not in everything(tmp_path / "store")


def test_a_tombstone_written_between_the_look_and_the_write_is_seen_after_the_write(storage: Storage) -> None:
    def meanwhile() -> float:  # the clock is read when the tombstones have been, and nothing is written yet
        Tombstone("clinic", None).write(storage)
        return 1.0

    store = SampleStore(storage, clock=meanwhile)
    group = [incoming(1), incoming(2, "plant"), incoming(3)]
    assert store.add_many(group) == [Outcome.FORGOTTEN, Outcome.STORED, Outcome.FORGOTTEN]
    (name,) = store.snapshot()
    assert [file.path for file in storage.files("segments")] == [f"segments/{name}.safetensors"]
    assert group[0].message_id.encode() not in storage.read(f"segments/{name}.safetensors")


def test_samples_that_come_in_while_they_are_forgotten_do_not_stay(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    writers = [SampleStore(storage), SampleStore(storage)]
    outcomes: list[tuple[Incoming, Outcome]] = []
    stop = threading.Event()

    def write(store: SampleStore, first: int) -> None:
        seed = first
        while not stop.is_set():
            group = [incoming(seed, count=1), incoming(seed + 500, "plant", count=1)]
            outcomes.extend(zip(group, store.add_many(group), strict=True))
            store.compact(everything=False)
            seed += 1

    threads = [threading.Thread(target=write, args=(store, 1000 * n)) for n, store in enumerate(writers)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while len(outcomes) < 40 and time.monotonic() < deadline:
        stop.wait(0.01)
    SampleStore(storage).forget("clinic")
    done = len(outcomes)
    while len(outcomes) < done + 40 and time.monotonic() < deadline:
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    left = everything(tmp_path / "segments")
    clinic = [(each, outcome) for each, outcome in outcomes if each.client == "clinic"]
    assert {outcome for _, outcome in clinic} == {Outcome.STORED, Outcome.FORGOTTEN}
    assert not any(each.message_id.encode() in left for each, _ in clinic)
    assert all(each.message_id.encode() in left for each, outcome in outcomes if each.client == "plant")
    assert owners(SampleStore(storage)) == {("plant", "d1")}


def test_damaged_files_of_theirs_are_removed_and_unreadable_ones_are_named(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    store.add_many([incoming(1), incoming(2)])
    (path,) = (tmp_path / "segments").iterdir()
    path.write_bytes(path.read_bytes()[:-300])
    garbage = tmp_path / "segments" / f"{'ab' * 32}.safetensors"
    garbage.write_bytes(b"garbage")
    store = SampleStore(Storage(tmp_path))
    assert len(list((tmp_path / "quarantine").iterdir())) == 2
    receipt = store.forget("clinic")
    assert receipt.batches == 2
    assert receipt.quarantine_removed == (f"quarantine/{path.name}",)
    assert receipt.quarantine_not_checked == (f"quarantine/{garbage.name}",)
    assert [each.name for each in (tmp_path / "quarantine").iterdir()] == [garbage.name]


def test_the_receipt_names_the_versions_that_were_trained_meanwhile(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    manifests = [tmp_path / "versions" / f"{number:06d}" / "manifest.json" for number in (1, 2, 3)]
    store = SampleStore(storage, clock=lambda: manifests[0].stat().st_mtime + 0.001)
    store.add_many([incoming(1)])
    time_passes(manifests[0].stat().st_mtime + 0.01)
    publish_backbone(storage)
    publish_backbone(storage)
    assert store.forget("clinic").versions == (2, 3)
    store.lift("clinic")
    store.add_many([incoming(2)])
    for manifest, clients in zip(manifests, [{"clinic": 4}, {"plant": 4}, {"clinic": 4}], strict=True):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "samples_by_client": clients}))
    receipt = store.forget("clinic")
    assert (receipt.versions, receipt.versions_by) == ((1, 3), "manifest")


def time_passes(until: float) -> None:
    while time.time() < until:
        pass


def test_a_tombstone_that_cannot_be_read_stops_the_storing(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    store.forget("clinic")
    (tmp_path / "forgotten" / "clinic.json").write_text("{")
    with pytest.raises(Damaged, match=r"forgotten/clinic\.json"):
        store.add_many([incoming(1, "plant")])


def test_what_cannot_be_read_is_named_and_erased_once_it_can_be(tmp_path: Path) -> None:
    late, other = incoming(1), incoming(2, "plant")
    storage = UnreadableBodies(tmp_path)
    store = SampleStore(storage, cache_bytes=0)
    store.add_many([late, other])
    storage.fails = True
    (path,) = (tmp_path / "segments").iterdir()
    receipt = store.forget("clinic")
    assert (receipt.batches, receipt.quarantine_not_checked) == (0, (f"segments/{path.name}",))
    assert not store.tombstones.forgotten[0].complete
    store.maintain()
    assert owners(store) == {("plant", "d1")}
    assert late.message.x.tobytes() in everything(tmp_path)
    storage.fails = False
    store.maintain()
    assert late.message.x.tobytes() not in everything(tmp_path)
    (tombstone,) = store.tombstones.forgotten
    assert tombstone.complete
    assert (*tombstone.ids, tombstone.receipts[-1]["batches"]) == (late.message_id, 1)


class UnreadableBodies(Storage):
    """A bucket's or a failing disk's way: the headers come, the rest does not."""

    fails = False

    def read(self, path: str) -> bytes:
        if self.fails and path.startswith("segments"):
            raise TimeoutError("the storage does not answer")
        return super().read(path)


def test_what_is_good_of_others_in_a_damaged_file_survives_its_removal(tmp_path: Path) -> None:
    store = SampleStore(Storage(tmp_path))
    theirs, other = incoming(1), incoming(2, "plant")
    store.add_many([theirs, other])
    (path,) = (tmp_path / "segments").iterdir()
    (tmp_path / "quarantine").mkdir()
    path.rename(tmp_path / "quarantine" / path.name)
    receipt = SampleStore(Storage(tmp_path)).forget("clinic")
    assert receipt.quarantine_removed == (f"quarantine/{path.name}",)
    store = SampleStore(Storage(tmp_path))
    (entry,) = store.entries()
    np.testing.assert_array_equal(store.tensors(entry).x, other.message.x)
    assert theirs.message.x.tobytes() not in everything(tmp_path)


def test_an_unfinished_segment_of_a_killed_writer_goes_and_any_other_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    store = SampleStore(storage)
    store.add_many([incoming(1)])
    child = os.fork()
    if child == 0:
        os.ftruncate = os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        SampleStore(storage).add_many([incoming(2)])
    os.waitpid(child, 0)
    (killed,) = (tmp_path / "segments").glob(".tmp-*")
    foreign = tmp_path / "segments" / ".tmp-1-elsewhere-00"
    foreign.write_bytes(b"perhaps theirs")
    receipt = store.forget("clinic")
    assert not killed.exists()
    assert receipt.quarantine_not_checked == (f"segments/{foreign.name}",)
    os.utime(foreign, (0, 0))
    store.maintain()
    assert not foreign.exists()


@pytest.mark.parametrize("content", ["{", '{"client": "clinic"}', '{"pending": []}', "[]", "\x00"])
def test_forgetting_again_begins_anew_where_the_tombstone_is_unreadable(tmp_path: Path, content: str) -> None:
    storage = Storage(tmp_path)
    store = SampleStore(storage)
    store.add_many([incoming(1), incoming(2, "plant")])
    path = tmp_path / "forgotten" / "clinic.json"
    path.parent.mkdir()
    fields: dict[str, object] = {
        "device": None,
        "active": True,
        "complete": True,
        "ids": [],
        "segments": [],
        "receipts": [],
    }
    is_object = content.startswith('{"')
    path.write_text(
        json.dumps({"client": "clinic", **fields, **json.loads(content)} if "pending" in content else content)
        if is_object
        else content
    )
    with pytest.raises(Damaged, match="forgotten again"):
        SampleStore(storage)
    begin_anew(storage, "clinic", None)
    assert SampleStore(storage).forget("clinic").batches == 1
    assert owners(SampleStore(storage)) == {("plant", "d1")}
    assert path.with_name("clinic.json.unreadable").exists()


def test_versions_are_named_though_the_samples_went_for_their_age(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    manifest = tmp_path / "versions" / "000001" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "samples_by_client": {"clinic": 4}}))
    receipt = SampleStore(storage).forget("clinic")
    assert (receipt.batches, receipt.versions, receipt.versions_by) == (0, (1,), "manifest")


def test_the_greater_part_of_a_store_expires_only_at_a_second_look(tmp_path: Path) -> None:
    now, passed = [100 * DAY_SECONDS], [0.0]
    store = SampleStore(
        Storage(tmp_path),
        limits=StoreLimits(retention_days=7),
        clock=lambda: now[0],
        monotonic=lambda: passed[0],
    )
    store.add_many([incoming(1), incoming(2)])
    now[0] *= 400
    store.maintain()
    passed[0] = 60.0
    store.maintain()
    assert (store.samples, store.tombstones.expired) == (8, 0)
    now[0] = 101 * DAY_SECONDS
    passed[0] = 3600.0
    store.maintain()
    now[0] = 110 * DAY_SECONDS
    store.maintain()
    assert store.samples == 8
    passed[0] = 7200.0
    store.maintain()
    assert (store.samples, store.tombstones.expired) == (0, 2)


def test_a_clock_that_went_back_makes_nothing_old_and_erases_nothing(tmp_path: Path) -> None:
    now = [100 * DAY_SECONDS]
    store = SampleStore(Storage(tmp_path), limits=StoreLimits(retention_days=7), clock=lambda: now[0])
    store.add_many([incoming(seed) for seed in range(3)])
    now[0] = 0.0
    store.add_many([incoming(3)])
    store.maintain()
    assert {entry.stored_at for entry in store.entries()} == {100 * DAY_SECONDS}
    now[0] = 101 * DAY_SECONDS
    store.maintain()
    assert store.samples == 16


def test_a_quota_leaves_room_for_what_waits_and_refuses_what_never_fits(storage: Storage) -> None:
    size = incoming(0).size_bytes
    store = SampleStore(storage, limits=StoreLimits(max_bytes=8 * size))
    assert store.add_many([incoming(0, count=40), incoming(1)]) == [Outcome.OVER_QUOTA, Outcome.STORED]
    least = 8 * size - store.size_bytes
    store.check_quota(1, least)
    with pytest.raises(StorageFull, match="store_max_bytes"):
        store.check_quota(1, least + 1)
