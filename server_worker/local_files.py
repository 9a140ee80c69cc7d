"""Files of this machine: written so that they survive a power cut, and listed without those that are not finished."""

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TEMPORARY_PREFIX = ".tmp-"

Buffer = bytes | bytearray | memoryview
"""What can be written: bytes, or a view of an array's."""


class Stored(NamedTuple):
    """One file of a listing: its path below the storage's root and its size."""

    path: str
    size_bytes: int


def temporary_name() -> str:
    """A name for a file that is being written: it tells by whom, and where that process is."""
    return f"{TEMPORARY_PREFIX}{os.getpid()}-{_here()}-{secrets.token_hex(8)}"


def is_abandoned(name: str) -> bool:
    """Whether the process that was writing this file is known to have ended: it was of this machine, and is not there."""
    pid, _, rest = name.removeprefix(TEMPORARY_PREFIX).partition("-")
    if not pid.isdigit() or rest.partition("-")[0] != _here():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it belongs to somebody else
    return False


def unfinished(folder: str) -> list[str]:
    """The names of the files right in a folder that were not finished, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.startswith(TEMPORARY_PREFIX))
    except FileNotFoundError:
        return []


def write_synced(path: Path, parts: Sequence[Buffer]) -> None:
    """Write a new file part by part, and wait until the disk has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def states(folder: str) -> dict[str, str]:
    """Name to state of every finished file right in a folder. Raises FileNotFoundError when there is no such folder."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX) or not entry.is_file():
                continue
            with suppress(FileNotFoundError):  # removed since the listing
                about = entry.stat()
                found[entry.name] = f"{about.st_ino} {about.st_size} {about.st_mtime_ns}"
    return found


def sync_directory(path: Path) -> None:
    """Wait until the disk has what was made, renamed or removed in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(path: Path) -> None:
    """A directory whose own entry survives a power cut, and those of the parents made on the way."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync_directory(directory.parent)


def files(folder: str, root: str) -> Iterator[Stored]:
    """Every finished file at any depth below a folder, its path counted from `root`."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(TEMPORARY_PREFIX):
            continue
        if entry.is_dir():
            yield from files(entry.path, root)
        else:
            try:
                yield Stored(entry.path[len(root) + 1 :], entry.stat().st_size)
            except FileNotFoundError:
                continue  # moved away by another process since the listing


def _here() -> str:
    """What tells this machine, and this container, from others that see the same files: a pid means something in it alone."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def sweep_one(path: Path, before_unix: float) -> int:
    """Remove what was left behind before a time; returns how many were."""
    try:
        if path.stat().st_mtime > before_unix:
            return 0
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return 0  # another process was faster, or may write here and we may not: harmless
    return 1
