"""What lies beside the whole segments and may hold samples of who is forgotten: damaged and unfinished files."""

from collections.abc import Callable, Collection, Iterable

import structlog

from server_worker.errors import Damaged, Unreadable, Vanished
from server_worker.samples.batch import StoredBatch
from server_worker.samples.rewriting import Shelf, listed, put
from server_worker.samples.segment import SUFFIX, Segment
from server_worker.samples.segments import QUARANTINE_FOLDER, SEGMENTS_FOLDER
from server_worker.samples.tombstones import Tombstone
from server_worker.storage import Storage

log = structlog.get_logger(__name__)


def clear_quarantine(
    storage: Storage, shelf: Shelf, tombstone: Tombstone, note: Callable[[Iterable[StoredBatch]], None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Remove damaged files that hold theirs, after writing anew what is good in them of others and is nowhere else.

    note: is called with what is about to be erased. Returns the paths of what was removed, and of what could not be read;
    segments in use that could not be, or that still hold theirs, are among these. Raises StorageFull.
    """
    removed, not_checked = [], []
    for folder in (QUARANTINE_FOLDER, SEGMENTS_FOLDER):
        for file in sorted(storage.names(folder)):
            path = f"{folder}/{file}"
            try:
                segment = shelf.segments.read_header(file.removesuffix(SUFFIX), folder)
                theirs = _of(tombstone, segment)
                if theirs and folder == QUARANTINE_FOLDER:
                    _rescue(shelf, segment, theirs)
            except Vanished:
                continue
            except (Damaged, Unreadable):
                not_checked.append(path)
                continue
            if theirs and folder == SEGMENTS_FOLDER:
                not_checked.append(path)
            elif theirs:
                note(theirs)
                storage.remove([path])
                removed.append(path)
    return tuple(removed), tuple(not_checked)


def clear_unfinished(storage: Storage) -> tuple[str, ...]:
    """Remove segments that a process of this machine was writing when it was killed; returns the paths of all others."""
    left = []
    for path in storage.unfinished(SEGMENTS_FOLDER):
        if storage.is_abandoned(path):
            storage.remove([path])
            log.info("unfinished_segment_removed", path=path)
        else:
            left.append(path)
    return tuple(left)


def _of(tombstone: Tombstone, segment: Segment) -> list[StoredBatch]:
    return [entry for entry in segment.batches if tombstone.covers(entry.client, entry.device)]


def _rescue(shelf: Shelf, segment: Segment, theirs: Collection[StoredBatch]) -> None:
    """Write anew what is whole of others and is in no segment. Raises Vanished, Unreadable, StorageFull."""
    if len(theirs) == len(segment.batches):
        return
    elsewhere = {entry.message_id for each in listed(shelf.segments) for entry in each.batches}
    good = [
        payload
        for payload in shelf.segments.payloads_set_aside(segment)
        if payload.entry not in theirs and payload.entry.message_id not in elsewhere
    ]
    put(shelf, good)
