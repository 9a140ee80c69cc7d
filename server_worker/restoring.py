"""Putting a copy in the place of a storage: it is there whole, or no worker starts on it; what was there before is kept aside."""

import time
from collections.abc import Iterable
from pathlib import Path

from server_worker import local_files
from server_worker.errors import StorageUnusable
from server_worker.storage import Storage, full_as_error

RESTORING_PATH = "RESTORING"
"""Stands in a storage from the first moment of a restore to the last."""

ASIDE_PREFIX = "before-restore-"


def check_not_half_restored(storage: Storage) -> None:
    """Raises StorageUnusable when a restore into this storage was begun and not finished."""
    if storage.exists(RESTORING_PATH):
        raise StorageUnusable(
            f"a restore into {storage.url} was not finished: run `collafuse backup restore` with --force again"
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


def put_in_place(source: Storage, paths: Iterable[str], storage: Storage) -> str | None:
    """Bring files into a storage that nobody uses.

    Locally all of them are staged below its root first, where no reader looks, then moved by their folders; what was there is
    moved into a folder beside them. Whenever this is interrupted, `check_not_half_restored` tells. Returns the name of that
    folder, None when nothing was there.

    source: of the copy.  paths: of its files.  Raises StorageFull, StorageUnusable.
    """
    if not storage.local:
        storage.write(RESTORING_PATH, b"")
        for path in paths:
            storage.write(path, _read(source, path))
        storage.delete(RESTORING_PATH)
        return None
    staged = local_files.temporary_name()
    try:
        for path in paths:
            storage.write(f"{staged}/{path}", _read(source, path))
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


def _read(source: Storage, path: str) -> bytes:
    try:
        return source.read(path)
    except OSError as error:
        raise StorageUnusable(
            f"{source.url}/{path} cannot be read any more: {error.strerror or error}"
        ) from error


def _move_aside(storage: Storage, names: list[str]) -> str | None:
    if not names:
        return None
    name = f"{ASIDE_PREFIX}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    aside = storage.local_path(name)
    aside.mkdir()
    for each in names:
        storage.local_path(each).rename(aside / each)
    local_files.sync_directory(aside)
    return name


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
