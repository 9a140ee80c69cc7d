"""Putting a copy in the place of a storage: it is there whole, or no worker starts on it; what was there before is kept aside."""

import fcntl
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from server_worker import local_files
from server_worker.copying import Copied
from server_worker.errors import Damaged, StorageUnusable
from server_worker.storage import Storage, full_as_error

RESTORING_PATH = "RESTORING"
"""Stands in a storage from the first moment of a restore to the last."""

ASIDE_PREFIX = "before-restore-"


def check_not_half_restored(storage: Storage) -> None:
    """Raises StorageUnusable when a restore into this storage was begun and not finished."""
    if storage.exists(RESTORING_PATH):
        again = "with --force again" if storage.local else "again, after emptying it"
        raise StorageUnusable(
            f"a restore into {storage.url} was not finished: run `collafuse backup restore` {again}"
        )


def check_free(storage: Storage, *, force: bool) -> None:
    """Raises StorageUnusable when there is something that must not be overwritten: anything in a bucket, or without `force`.

    So it does where no storage can be, as in the place of a file.
    """
    there = _entries(storage)
    if not there:
        return
    if not storage.local:
        raise StorageUnusable(f"{storage.url} is not empty ({there[0]}): empty it, or name another")
    if not force:
        raise StorageUnusable(
            f"{storage.url} is not empty ({there[0]}): name another directory, or stop the workers and give --force,"
            " which moves what is there aside"
        )


def put_in_place(source: Storage, files: Iterable[Copied], storage: Storage) -> str | None:
    """Bring files into a storage that nobody uses.

    Locally all of them are staged below its root first, where no reader looks, then moved by their folders; what was there is
    moved into a folder beside them. Whenever this is interrupted, `check_not_half_restored` tells. Returns the name of that
    folder, None when nothing was there.

    source: of the copy.  files: of it; the bytes that are written are the ones whose digest was compared.
    Raises Damaged when a file is not what was copied, StorageFull, StorageUnusable, as while another restore is under way.
    """
    if not storage.local:
        storage.write(RESTORING_PATH, b"")
        for each in files:
            storage.write(each.path, _read(source, each))
        storage.delete(RESTORING_PATH)
        return None
    with _alone(storage):
        staged = local_files.temporary_name()
        try:
            for each in files:
                storage.write(f"{staged}/{each.path}", _read(source, each))
        except BaseException:
            storage.delete(staged)
            raise
        there = _entries(storage)
        storage.write(RESTORING_PATH, b"")
        with full_as_error(storage.url):
            aside = _move_aside(storage, there)
            _move(storage.local_path(staged), storage.local_path(""))
            storage.local_path(staged).rmdir()
        storage.remove([RESTORING_PATH])
        return aside


@contextmanager
def _alone(storage: Storage) -> Iterator[None]:
    """No other restore into this directory meanwhile, of which each would move its files among the other's."""
    root = storage.local_path("")
    with full_as_error(storage.url):
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StorageUnusable(
            f"another restore into {storage.url} is under way: wait until it has ended"
        ) from error
    except OSError:
        pass  # a file system without such locks
    try:
        yield
    finally:
        os.close(descriptor)


def _read(source: Storage, file: Copied) -> bytes:
    try:
        data = source.read_start(file.path, file.size_bytes + 1)  # a longer one is none of ours, however long
    except OSError as error:
        raise StorageUnusable(
            f"{source.url}/{file.path} cannot be read any more: {error.strerror or error}"
        ) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise Damaged(
            f"{source.url}/{file.path} is not what was copied: somebody changed it, or the disk did; take another backup"
        )
    return data


def _move_aside(storage: Storage, names: list[str]) -> str | None:
    if not names:
        return None
    aside = _new_folder(storage.local_path(f"{ASIDE_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"))
    for each in names:
        storage.local_path(each).rename(aside / each)
    local_files.sync_directory(aside)
    return aside.name


def _new_folder(path: Path) -> Path:
    """A folder of this name, or with a number behind it when there is one already, as of a restore in the same second."""
    folder, number = path, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = path.with_name(f"{path.name}-{number}")
        else:
            return folder


def _move(staged: Path, root: Path) -> None:
    for entry in sorted(staged.iterdir()):
        entry.rename(root / entry.name)
    local_files.sync_directory(root)


def _entries(storage: Storage) -> list[str]:
    """What stands in the root of a storage, but for earlier restores and what never was finished."""
    if not storage.exists(""):
        return []
    try:
        names = {*storage.folders(""), *storage.names("")}
    except OSError as error:
        raise StorageUnusable(f"{storage.url} cannot be used: {error.strerror or error}") from error
    return sorted(
        name for name in names if name != RESTORING_PATH and not name.startswith((ASIDE_PREFIX, "lost+found"))
    )
