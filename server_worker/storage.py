"""Durable files: a directory here is a bucket there.

Everything that a worker keeps goes through here. On the local file system a file appears whole or not at all, and survives
a power cut once the call returns: temporary file, fsync, rename, fsync of the directory. An object store already gives whole
objects, so there a write is one put.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from server_worker import local_files
from server_worker.errors import Damaged, StorageFull, StorageUnusable
from server_worker.local_files import TEMPORARY_PREFIX, Buffer, Stored

__all__ = ["TEMPORARY_PREFIX", "Buffer", "Storage", "Stored"]

STALE_TEMPORARY_SECONDS = 3600.0
CHUNK_BYTES = 8 << 20

_STATE_KEYS = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created")
"""By what the kinds of bucket say that a file is another than before."""

# What passes by itself when somebody makes room or mounts the disk again. EFBIG is a limit on file sizes.
_FULL = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM})


class Storage:
    """A tree of durable files under one URL.

    url: a directory, or any URL that fsspec understands (`s3://bucket/federation`).
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError, OSError) as error:
            raise StorageUnusable(f"the storage {self.url!r} cannot be opened: {error}") from error
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        protocols = (filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol
        self.local = "file" in protocols

    def check_writable(self) -> None:
        """Raises StorageUnusable when not even an empty file can be written here."""
        name = local_files.temporary_name()
        try:
            self.write(name, b"")
            self.delete(name)
        except StorageFull as error:
            raise StorageUnusable(
                f"the storage {self.url} cannot be written: {error}. Make room, or choose another directory"
            ) from error

    def check_room(self, size_bytes: int, folder: str) -> None:
        """Raises StorageFull unless a file of this size can be written into a folder at the moment."""
        path = f"{folder}/{local_files.temporary_name()}"
        zeros = memoryview(bytes(min(size_bytes, CHUNK_BYTES)))  # the same piece again and again
        whole, rest = divmod(size_bytes, CHUNK_BYTES)
        try:
            self.write(path, [zeros] * whole + [zeros[:rest]])
        finally:
            self.remove([path])

    def read(self, path: str) -> bytes:
        """All bytes of one file. Raises FileNotFoundError when it is not there."""
        data: bytes = self._fs.cat_file(self._at(path))
        return data

    def read_start(self, path: str, size_bytes: int) -> bytes:
        """The first bytes of one file, fewer when it is shorter."""
        if self.local:
            with Path(self._at(path)).open("rb") as file:
                return file.read(size_bytes)
        data: bytes = self._fs.cat_file(self._at(path), start=0, end=size_bytes)
        return data

    def exists(self, path: str) -> bool:
        """Whether a file stands at this path."""
        return bool(self._fs.exists(self._at(path)))

    def files(self, folder: str) -> Iterator[Stored]:
        """Every finished file at any depth below `folder`, in no particular order."""
        if self.local:
            yield from local_files.files(self._at(folder), self._root)
            return
        found: dict[str, dict[str, Any]] = self._fs.find(self._at(folder), detail=True, refresh=True)
        for path, info in found.items():
            if not path.rsplit("/", 1)[-1].startswith(TEMPORARY_PREFIX):
                yield Stored(path[len(self._root) + 1 :], int(info["size"]))

    def folders(self, folder: str) -> list[str]:
        """The names of the folders right below `folder`, sorted."""
        try:
            entries = self._fs.ls(self._at(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        names = (
            str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]
            for entry in entries
            if entry["type"] == "directory"
        )
        return sorted(name for name in names if not name.startswith(TEMPORARY_PREFIX))

    def names(self, folder: str) -> list[str]:
        """The names of the finished files right below `folder`, in no particular order; asks nothing else of them."""
        if self.local:
            try:
                with os.scandir(self._at(folder)) as entries:
                    return [entry.name for entry in entries if not entry.name.startswith(TEMPORARY_PREFIX)]
            except FileNotFoundError:
                return []
        return list(self.states(folder))

    def states(self, folder: str) -> dict[str, str]:
        """Name to state of every finished file right below `folder`; a file that was written anew has another state."""
        try:
            if self.local:
                return local_files.states(self._at(folder))
            entries = self._fs.ls(self._at(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        found = {str(entry["name"]).rsplit("/", 1)[-1]: entry for entry in entries if entry["type"] == "file"}
        return {
            name: " ".join(str(entry.get(key)) for key in _STATE_KEYS)
            for name, entry in found.items()
            if not name.startswith(TEMPORARY_PREFIX)
        }

    def size_bytes(self, path: str) -> int:
        """The size of one file. Raises FileNotFoundError when it is not there."""
        return (
            Path(self._at(path)).stat().st_size if self.local else int(self._fs.info(self._at(path))["size"])
        )

    def modified(self, path: str) -> float:
        """When one file was written, in unix seconds by the storage's clock. Raises FileNotFoundError."""
        if self.local:
            return Path(self._at(path)).stat().st_mtime
        return float(self._fs.modified(self._at(path)).timestamp())

    def local_path(self, path: str) -> Path:
        """Where a file of a local storage is, for mapping it into memory."""
        return Path(self._at(path))

    def write(self, path: str, data: Buffer | Sequence[Buffer]) -> None:
        """Put one file in place, whole and durable, over whatever stood there. Raises StorageFull.

        data: the bytes, or parts of them to be written one after another without being joined in memory.
        """
        parts = [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)
        with full_as_error(self.url):
            if not self.local:
                self._fs.pipe_file(self._at(path), b"".join(parts))
                return
            target = Path(self._at(path))
            local_files.make_durable(target.parent)
            temporary = target.parent / local_files.temporary_name()
            try:
                local_files.write_synced(temporary, parts)
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            local_files.sync_directory(target.parent)

    def write_folder(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Put a folder of several files in place. Raises StorageFull.

        Locally the folder appears with all its files at once; an older folder of that name is replaced. In a bucket the
        files appear in the order of the mapping, so the last one is the sign that the folder is complete.
        """
        with full_as_error(self.url):
            if not self.local:
                for name, data in files.items():
                    self._fs.pipe_file(self._at(f"{folder}/{name}"), data)
                return
            target = Path(self._at(folder))
            local_files.make_durable(target.parent)
            temporary = target.parent / local_files.temporary_name()
            try:
                temporary.mkdir()
                for name, data in files.items():
                    local_files.write_synced(temporary / name, [data])
                local_files.sync_directory(temporary)
                if target.exists():
                    shutil.rmtree(target)
                temporary.rename(target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            local_files.sync_directory(target.parent)

    def move(self, path: str, target: str) -> None:
        """Rename one file. Raises StorageFull."""
        with full_as_error(self.url):
            if self.local:
                local_files.make_durable(Path(self._at(target)).parent)
            self._fs.mv(self._at(path), self._at(target))

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files for good: what is gone when this returns does not come back after a power cut.

        Files that are not there are no error. Raises StorageFull.
        """
        with full_as_error(self.url):
            folders = set()
            for path in paths:
                try:
                    if self.local:
                        Path(self._at(path)).unlink()
                        folders.add(Path(self._at(path)).parent)
                    else:
                        self._fs.rm_file(self._at(path))
                except FileNotFoundError:
                    continue  # another process was faster
            for folder in folders:
                local_files.sync_directory(folder)

    def delete(self, path: str) -> None:
        """Remove one file, or a folder with all it holds; nothing there is no error."""
        with full_as_error(self.url):
            try:
                self._fs.rm(self._at(path), recursive=True)
            except FileNotFoundError:
                return

    def unfinished(self, folder: str) -> list[str]:
        """The paths of the files right below a folder that are being written, or never were to the end; none in a bucket."""
        names = local_files.unfinished(self._at(folder)) if self.local else []
        return [f"{folder}/{name}" for name in names]

    def is_abandoned(self, path: str) -> bool:
        """Whether nobody will finish an unfinished file: its writer was a process of this machine that has ended."""
        return local_files.is_abandoned(path.rsplit("/", 1)[-1])

    def sweep(self) -> int:
        """Remove the temporary files that killed processes left behind an hour ago or longer; returns how many."""
        if not self.local:
            return 0
        swept = 0
        before = time.time() - STALE_TEMPORARY_SECONDS
        for directory, folders, names in os.walk(self._root):
            for name in [name for name in (*folders, *names) if name.startswith(TEMPORARY_PREFIX)]:
                swept += local_files.sweep_one(Path(directory, name), before)
        return swept

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root


def read_json(storage: Storage, path: str) -> dict[str, Any]:
    """One JSON object. Raises FileNotFoundError when it is not there, Damaged when it is no JSON object."""
    data = storage.read(path)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Damaged(
            f"{storage.url}/{path} is not valid JSON ({error}): remove it, or restore it from a copy"
        ) from error
    if not isinstance(value, dict):
        raise Damaged(f"{storage.url}/{path} should hold a JSON object: remove it, or restore it from a copy")
    return value


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object as bytes, keys sorted, for people to read."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


@contextmanager
def full_as_error(url: str) -> Iterator[None]:
    """Translate what the operating system says of a write: no room or not writable now (StorageFull), or worse."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"{url} takes no more data: {error.strerror} ({error.filename or url})"
            ) from error
        raise StorageUnusable(f"writing to {url} failed: {error}") from error
