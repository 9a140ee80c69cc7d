import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server_worker.errors import StorageFull, StorageUnusable
from server_worker.storage import STALE_TEMPORARY_SECONDS, TEMPORARY_PREFIX, Storage, full_as_error


@contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """Let the kernel refuse larger files to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_is_read_and_listed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a/b/one", b"1")
    storage.write_folder("a/two", {"x": b"22", "y": b"333"})
    assert storage.read("a/b/one") == b"1"
    assert sorted(storage.files("a")) == [("a/b/one", 1), ("a/two/x", 2), ("a/two/y", 3)]
    assert storage.folders("a") == ["b", "two"]
    assert storage.read_start("a/two/y", 2) == b"33"


def test_the_same_calls_work_on_an_object_store(tmp_path: Path) -> None:
    storage = Storage(f"memory://bucket-{os.getpid()}")
    storage.write("a/b/one", b"1")
    storage.write_folder("a/two", {"x": b"22", "y": b"333"})
    assert storage.read("a/b/one") == b"1"
    assert sorted(storage.files("a")) == [("a/b/one", 1), ("a/two/x", 2), ("a/two/y", 3)]
    assert storage.folders("a") == ["b", "two"]
    storage.move("a/b/one", "c/one")
    assert not storage.exists("a/b/one")
    assert storage.read_start("a/two/y", 2) == b"33"
    storage.delete("a")
    assert sorted(storage.files("a")) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write_folder("v", {"old": b"1"})
    storage.write_folder("v", {"new": b"2"})
    assert [file.path for file in storage.files("v")] == ["v/new"]


def test_a_write_that_finds_no_room_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with files_limited_to(1000):
        with pytest.raises(StorageFull, match="takes no more data"):
            storage.write("big", bytes(5000))
        with pytest.raises(StorageFull):
            storage.write_folder("folder", {"big": bytes(5000)})
        with pytest.raises(StorageFull):
            storage.check_room(5000, "other")
        storage.check_room(500, "other")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_room_is_looked_for_where_it_is_needed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    (tmp_path / "segments").write_bytes(b"a file, not a folder")
    with pytest.raises(StorageUnusable, match="segments"):
        storage.check_room(500, "segments")
    storage.check_room(20 << 20, "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_the_kernels_own_full_disk_is_a_passing_condition() -> None:
    always_full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StorageFull, match="No space left"), full_as_error("disk"):
        os.write(always_full, b"x")
    os.close(always_full)


def test_a_path_that_can_never_be_written_is_no_full_disk(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("blocked", b"a file, not a folder")
    with pytest.raises(StorageUnusable, match="blocked"):
        storage.write("blocked/below", b"")


def test_only_old_temporary_files_are_swept(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    old, new = tmp_path / f"{TEMPORARY_PREFIX}old", tmp_path / f"{TEMPORARY_PREFIX}new"
    old.write_bytes(b"")
    new.write_bytes(b"")
    long_ago = old.stat().st_mtime - STALE_TEMPORARY_SECONDS - 10
    os.utime(old, (long_ago, long_ago))
    assert storage.sweep() == 1
    assert not old.exists()
    assert new.exists()


def test_temporary_files_are_never_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{TEMPORARY_PREFIX}half").write_bytes(b"")
    assert list(Storage(tmp_path).files("a")) == []
