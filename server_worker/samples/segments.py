"""The folder of segments: listing, reading headers, opening tensors, writing, setting aside.

A large local segment is mapped, so that the page cache is the cache; a small one, and every one of a bucket, is read into memory
once and kept as long as there is room for it.
"""

import mmap
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from server_worker.errors import BrokenSegment, StorageUnusable, Unreadable, Vanished
from server_worker.samples.batch import Array, Payload
from server_worker.samples.segment import SUFFIX, Segment, decode, encode, header_bytes
from server_worker.storage import Storage

log = structlog.get_logger(__name__)

SEGMENTS_FOLDER = "segments"
QUARANTINE_FOLDER = "quarantine"

FIRST_READ_BYTES = 16 * 1024
"""Of a header; an ordinary one fits, a longer one costs a second read."""

MAPPED_FROM_BYTES = 1 << 20
MAPPED_SEGMENTS = 400
"""So many mappings at a time: each holds a file descriptor, of which a process often has 1,024."""

Arrays = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class _Open:
    arrays: Arrays
    memory_bytes: int  # 0 for a mapping


class Segments:
    """All segments of one storage, and those of them that are open. Safe to use from several threads.

    cache_bytes: memory for tensors that are not mapped; what is in use may take more.
    """

    def __init__(self, storage: Storage, cache_bytes: int) -> None:
        self._storage = storage
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._memory_bytes = 0
        self._mapped = 0
        self._verified: set[str] = set()

    def names(self) -> set[str]:
        """The names of the segments that are there. Raises Unreadable."""
        with reading(SEGMENTS_FOLDER, SEGMENTS_FOLDER):
            names = self._storage.names(SEGMENTS_FOLDER)
        return {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}

    def read_header(self, name: str, folder: str = SEGMENTS_FOLDER) -> Segment:
        """What a segment holds. Raises Vanished, Unreadable, or Damaged when its header is not what was written."""
        path = f"{folder}/{name}{SUFFIX}"
        with reading(name, path):
            start = self._storage.read_start(path, FIRST_READ_BYTES)
            needed = header_bytes(start)
            if needed > len(start):
                start = self._storage.read_start(path, needed)
        return decode(start[:needed], name)

    def is_whole(self, segment: Segment) -> bool:
        """Whether a local segment is as long as its header says; a bucket cuts none short. Raises Vanished, Unreadable."""
        path = path_of(segment.name)
        with reading(segment.name, path):
            return not self._storage.local or self._storage.size_bytes(path) == segment.size_bytes

    def arrays(self, segment: Segment) -> Arrays:
        """The tensors of a segment, every payload's digest compared once in the life of this process.

        Raises Vanished, Unreadable, or BrokenSegment with all that is wrong.
        """
        known = self._open.get(segment.name)
        opened = self._opened(segment) if known is None else known
        if segment.name not in self._verified:
            reasons = _broken(segment, opened.arrays)
            if reasons:
                raise BrokenSegment(segment.name, reasons)
            self._verified.add(segment.name)
        return opened.arrays

    def payloads(self, segment: Segment) -> list[Payload]:
        """Every batch with its arrays, whatever they are: their digests travel with them. Raises Vanished, Unreadable."""
        return _payloads(segment, self._opened(segment).arrays)

    def payloads_set_aside(self, segment: Segment) -> list[Payload]:
        """The batches of a damaged file that are what was written. Raises Vanished, Unreadable."""
        path = f"{QUARANTINE_FOLDER}/{segment.name}{SUFFIX}"
        with reading(segment.name, path):
            data = self._storage.read(path)
        arrays = segment.arrays(data.ljust(segment.size_bytes, b"\0"))
        return [payload for payload in _payloads(segment, arrays) if payload.is_sound]

    def can_read(self, segment: Segment) -> bool:
        """Whether it can be opened at the moment, or is gone, whatever it holds."""
        try:
            self._opened(segment)
        except Unreadable as error:
            log.warning("segment_unreadable", segment=segment.name, reason=str(error))
            return False
        except Vanished:
            return True
        return True

    def write(self, payloads: Sequence[Payload]) -> Segment:
        """Make one segment of batches of one kind, durable once this returns. Raises StorageFull."""
        segment, parts = encode(payloads)
        self._storage.write(path_of(segment.name), parts)
        return segment

    def remove(self, names: Iterable[str]) -> None:
        """Delete segments for good. Raises StorageFull."""
        names = list(names)
        self._storage.remove([path_of(name) for name in names])
        self.close(names)

    def set_aside(self, name: str) -> None:
        """Move a damaged segment out of the way, or see that another process has. Raises StorageFull, StorageUnusable."""
        try:
            self._storage.move(path_of(name), f"{QUARANTINE_FOLDER}/{name}{SUFFIX}")
        except StorageUnusable:
            if self._storage.exists(path_of(name)):
                raise
        self.close([name])

    def close(self, names: Iterable[str]) -> None:
        """Let go of segments; arrays that are in use stay valid."""
        with self._lock:
            for name in names:
                self._drop(name)

    def _opened(self, segment: Segment) -> _Open:
        with self._lock:
            if segment.name in self._open:
                return self._open[segment.name]
        opened = self._load(segment)
        with self._lock:
            if segment.name in self._open:
                return self._open[segment.name]  # another thread was faster
            self._open[segment.name] = opened
            self._memory_bytes += opened.memory_bytes
            self._mapped += not opened.memory_bytes
            self._make_room(segment.name)
        return opened

    def _load(self, segment: Segment) -> _Open:
        path = path_of(segment.name)
        with reading(segment.name, path):
            if self.is_whole(segment) and self._storage.local and segment.size_bytes >= MAPPED_FROM_BYTES:
                return _Open(segment.arrays(memoryview(self._mapping(path))), 0)
            data = self._storage.read(path)
        # A truncated file is read as far as it goes; the digests tell what is missing.
        return _Open(segment.arrays(data.ljust(segment.size_bytes, b"\0")), segment.size_bytes)

    def _mapping(self, path: str) -> mmap.mmap:
        with self._storage.local_path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _make_room(self, keep: str) -> None:
        """Close what was opened longest ago until memory and mappings are within their bounds."""
        for name in list(self._open):
            too_much = self._memory_bytes > self._cache_bytes
            too_many = self._mapped > MAPPED_SEGMENTS
            if not (too_much or too_many):
                return
            if name != keep and (too_much if self._open[name].memory_bytes else too_many):
                self._drop(name)

    def _drop(self, name: str) -> None:
        opened = self._open.pop(name, None)
        if opened is not None:
            self._memory_bytes -= opened.memory_bytes
            self._mapped -= not opened.memory_bytes


def path_of(name: str) -> str:
    """The path of a segment below the storage's root."""
    return f"{SEGMENTS_FOLDER}/{name}{SUFFIX}"


@contextmanager
def reading(name: str, path: str) -> Iterator[None]:
    """Translate what the operating system or a bucket says of a read: only what was read can turn out to be damaged."""
    try:
        yield
    except FileNotFoundError as error:
        raise Vanished(name) from error
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read at the moment: {error}. It is left as it is and tried again"
        ) from error


def _payloads(segment: Segment, arrays: Arrays) -> list[Payload]:
    return [Payload(entry, segment.rows(arrays, index)) for index, entry in enumerate(segment.batches)]


def _broken(segment: Segment, arrays: Arrays) -> dict[str, str]:
    return {
        payload.entry.message_id: "the tensors' digest is wrong"
        for payload in _payloads(segment, arrays)
        if not payload.is_sound
    }
