"""Copies of a storage that is written to meanwhile, and their way back into place."""

import itertools
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from broker.codec import digest, encode
from server_worker import copying, restoring, versions
from server_worker.copying import Copied, Copy, copy_of
from server_worker.errors import Damaged, StorageUnusable
from server_worker.restoring import check_free, check_not_half_restored, put_in_place
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from server_worker.training import announcer, checkpoints
from server_worker.training.checkpoints import Checkpoint
from tests.server_worker.backbones import publish_backbone, sample_batch


def add(store: SampleStore, seed: int, client: str = "clinic") -> str:
    message = sample_batch(seed)
    message_id = digest(encode(message))
    store.add(message, message_id, client, "d")
    return message_id


def ids(storage: Storage) -> set[str]:
    return {entry.message_id for entry in SampleStore(storage).entries()}


def save(storage: Storage, step: int) -> None:
    checkpoints.save(storage, Checkpoint(step, {"w": torch.full((4,), float(step))}, {"seed": 0}))


def once(action: Callable[[], object]) -> Callable[[Copied], None]:
    """Does something after the first file was copied."""
    done: list[bool] = []

    def on_file(_: Copied) -> None:
        if not done:
            done.append(True)
            action()

    return on_file


def copied(storage: Storage, target: Path, on_file: Callable[[Copied], None] | None = None) -> Copy:
    return copy_of(storage, Storage(target), on_file)


def test_segments_that_are_merged_while_they_are_copied_are_in_the_copy(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    store = SampleStore(storage)
    before = {add(store, seed) for seed in range(6)}

    made = copied(storage, tmp_path / "copy", once(store.compact))

    assert len(storage.names("segments")) == 1, "they were merged behind the copy's back"
    assert before <= ids(Storage(tmp_path / "copy"))
    assert {each.path for each in made.files} == {each.path for each in Storage(tmp_path / "copy").files("")}


def test_copies_under_load_hold_all_that_was_stored_when_they_began(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    store = SampleStore(storage)
    stored: list[str] = [add(store, seed) for seed in range(20)]
    stop = threading.Event()

    def load() -> None:
        for seed in range(20, 2000):
            if stop.is_set():
                return
            stored.append(add(store, seed))
            if seed % 7 == 0:
                store.compact()

    writer = threading.Thread(target=load)
    writer.start()
    try:
        # On a slow disk only a few come while a copy is made.
        for number in itertools.count():
            before = set(stored)
            copied(storage, tmp_path / f"copy-{number}")
            assert before <= ids(Storage(tmp_path / f"copy-{number}"))
            if number >= 7 and len(stored) > 40:
                break
    finally:
        stop.set()
        writer.join()


def test_who_is_forgotten_while_a_copy_is_made_is_forgotten_in_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    store = SampleStore(storage)
    kept = {add(store, seed) for seed in range(3)}
    gone = {add(store, seed, "leaver") for seed in range(10, 13)}

    copied(storage, tmp_path / "copy", once(lambda: store.forget("leaver")))

    restored = SampleStore(Storage(tmp_path / "copy"))
    assert {entry.message_id for entry in restored.entries()} == kept
    restored.maintain()
    text = b"".join(path.read_bytes() for path in (tmp_path / "copy" / "segments").iterdir())
    assert not any(message_id.encode() in text for message_id in gone), "what was copied of them is erased"


def test_a_version_that_is_published_while_a_copy_is_made_is_in_it_or_nobody_names_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    add(SampleStore(storage), 0)
    publish_backbone(storage, 1)
    versions.name_best(storage, 1)

    def publish_and_prune() -> None:
        weights = versions.load(storage, 1, torch.device("cpu")).network.state_dict()
        manifest = versions.read_manifest(storage, 1)
        versions.name_best(storage, 2)
        versions.publish(storage, weights, manifest, keep=1)

    copied(storage, tmp_path / "copy", once(publish_and_prune))

    copy = Storage(tmp_path / "copy")
    assert (versions.latest(copy), versions.best(copy)) == (2, 2)
    assert versions.load(copy, 2, torch.device("cpu")).number == 2


def test_the_newest_whole_checkpoint_is_copied_and_a_damaged_one_is_told_of(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    save(storage, 10)
    save(storage, 20)
    tensors = tmp_path / "server" / "checkpoints" / f"{20:012d}" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")

    made = copied(storage, tmp_path / "copy")

    assert made.left_out == (f"checkpoints/{20:012d}",)
    newest = checkpoints.load_newest(Storage(tmp_path / "copy"))
    assert newest is not None
    assert newest.step == 10


def test_the_files_are_those_that_the_workers_write() -> None:
    assert copying.VERSIONS_FOLDER == versions.VERSIONS_FOLDER
    assert set(copying.POINTERS) == {versions.LATEST_PATH, versions.BEST_PATH}
    assert copying.VERSION_FILES == (versions.WEIGHTS_NAME, versions.MANIFEST_NAME, "weights_digest")
    assert copying.CHECKPOINTS_FOLDER == checkpoints.CHECKPOINTS_FOLDER
    assert copying.CHECKPOINT_FILES == (checkpoints.TENSORS_NAME, checkpoints.STATE_NAME, "digest")
    assert copying.ROUND_PATH == announcer.ROUND_PATH


def listed(storage: Storage) -> list[Copied]:
    """Every file of a storage, as the list of a backup has it."""
    found = ((each, storage.read(each.path)) for each in storage.files(""))
    return [Copied(each.path, each.size_bytes, sha256(data).hexdigest()) for each, data in found]


def test_nothing_is_overwritten_unless_forced_and_then_it_is_kept_aside(tmp_path: Path) -> None:
    old, new = Storage(tmp_path / "server"), Storage(tmp_path / "copy")
    before, after = {add(SampleStore(old), 1)}, {add(SampleStore(new), 2)}
    files = listed(new)

    with pytest.raises(StorageUnusable, match="not empty"):
        check_free(old, force=False)
    check_free(old, force=True)
    aside = put_in_place(new, files, old)

    assert ids(old) == after
    assert aside is not None
    assert ids(Storage(tmp_path / "server" / aside)) == before
    assert not (tmp_path / "server" / restoring.RESTORING_PATH).exists()


def test_restores_in_one_second_keep_all_that_was_there_before(tmp_path: Path) -> None:
    old, new = Storage(tmp_path / "server"), Storage(tmp_path / "copy")
    before, after = {add(SampleStore(old), 1)}, {add(SampleStore(new), 2)}

    aside = [put_in_place(new, listed(new), old) for _ in range(4)]  # a matter of milliseconds each

    kept = [ids(Storage(tmp_path / "server" / str(name))) for name in aside]
    assert kept == [before, after, after, after]
    assert ids(old) == after


def test_one_of_two_restores_at_once_is_refused_and_no_storage_is_made_of_both(tmp_path: Path) -> None:
    server = Storage(tmp_path / "server")
    one, other = Storage(tmp_path / "one"), Storage(tmp_path / "other")
    first = {add(SampleStore(one), 1)}
    add(SampleStore(other), 2)

    def while_another_is_tried() -> Iterator[Copied]:
        for each in listed(one):
            with pytest.raises(StorageUnusable, match=r"^another restore into .*server is under way"):
                put_in_place(other, listed(other), server)
            yield each

    assert put_in_place(one, while_another_is_tried(), server) is None

    check_not_half_restored(server)
    assert ids(server) == first
    assert [path.name for path in (tmp_path / "server").iterdir()] == ["segments"]


@pytest.mark.parametrize("change", ["gone", "another", "longer"])
def test_a_restore_whose_source_is_not_what_was_copied_changes_nothing(tmp_path: Path, change: str) -> None:
    old, new = Storage(tmp_path / "server"), Storage(tmp_path / "copy")
    before = {add(SampleStore(old), 1)}
    add(SampleStore(new), 2)
    files = listed(new)
    changed = tmp_path / "copy" / files[-1].path
    if change == "gone":
        changed.unlink()
    else:
        data = changed.read_bytes()
        changed.write_bytes(data + b"\0" if change == "longer" else bytes(len(data)))

    with pytest.raises((StorageUnusable, Damaged), match=r"cannot be read any more|is not what was copied"):
        put_in_place(new, files, old)

    check_not_half_restored(old)
    assert ids(old) == before
    assert [path.name for path in (tmp_path / "server").iterdir()] == ["segments"], "nothing is left behind"


def test_a_restore_that_was_cut_short_is_told_to_every_worker_and_may_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Storage(tmp_path / "server"), Storage(tmp_path / "copy")
    add(SampleStore(old), 1)
    after = {add(SampleStore(new), 2)}
    files = listed(new)

    def power_cut(_: Path, __: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_move", power_cut)
        with pytest.raises(KeyboardInterrupt):
            put_in_place(new, files, old)
    with pytest.raises(StorageUnusable, match="was not finished"):
        check_not_half_restored(old)

    check_free(old, force=True)
    put_in_place(new, files, old)

    check_not_half_restored(old)
    assert ids(old) == after


def test_a_name_that_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "server")
    publish_backbone(storage, 1)
    storage.write(versions.BEST_PATH, b"7\n")

    made = copied(storage, tmp_path / "copy")

    assert versions.BEST_PATH in made.left_out
    copy = Storage(tmp_path / "copy")
    assert versions.best(copy) is None
