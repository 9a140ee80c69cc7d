"""Writing segments anew: merged, or without what must not be there. Safe to be killed, and to be done by several at once.

A segment is deleted only by whoever has made another durable that holds all of it, or all of it that may be kept. So whatever
others do meanwhile, one copy of each batch is always there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import structlog

from server_worker.errors import Damaged, Unreadable, Vanished
from server_worker.samples.batch import Kind, Payload, StoredBatch
from server_worker.samples.segment import Segment
from server_worker.samples.segments import Segments
from server_worker.samples.tombstones import Tombstones

log = structlog.get_logger(__name__)

SEGMENT_BYTES = 64 << 20
"""Segments are merged up to this size."""

TIERS_BYTES = (32 << 10, 1 << 20, 32 << 20)
"""Segments below each of these sizes are merged among themselves, so that no byte is written more often than there are tiers."""

TIER_SEGMENTS = 32
"""So many segments of one tier, and one kind, are merged while samples come in."""


@dataclass(frozen=True)
class Shelf:
    """The segments of a storage, and what must not be in them."""

    segments: Segments
    tombstones: Tombstones


def put(shelf: Shelf, payloads: Sequence[Payload]) -> Segment | None:
    """Write one segment, durable once this returns; None when nothing of it may be kept.

    What a tombstone covers that was written meanwhile is erased again: who forgets lists the segments after its tombstone, and
    the tombstones are read here after the segment, so one of the two sees the other. Raises StorageFull.
    """
    before: Segment | None = None
    while True:
        segment = shelf.segments.write(payloads) if payloads else None
        if before is not None:
            shelf.segments.remove([before.name])
        shelf.tombstones.reload()
        kept = [payload for payload in payloads if not refused(shelf, payload.entry)]
        if segment is None or len(kept) == len(payloads):
            return segment
        before, payloads = segment, kept


def refused(shelf: Shelf, entry: StoredBatch) -> bool:
    """Whether a tombstone covers a batch."""
    return shelf.tombstones.refusal(entry.message_id, entry.client, entry.device) is not None


def listed(segments: Segments) -> Iterator[Segment]:
    """Every segment that is there, by its header; those that cannot be read are passed over."""
    for name in sorted(segments.names()):
        try:
            yield segments.read_header(name)
        except (Vanished, Damaged, Unreadable):
            continue


def without(shelf: Shelf, segment: Segment, unwanted: Callable[[StoredBatch], bool]) -> bool:
    """Replace a segment by one without some of its batches; returns False when it was gone. Raises StorageFull, Unreadable."""
    try:
        kept = [payload for payload in shelf.segments.payloads(segment) if not unwanted(payload.entry)]
    except Vanished:
        return False
    if len(kept) == len(segment.batches):
        return False
    put(shelf, kept)
    shelf.segments.remove([segment.name])
    return True


def erase_refused(shelf: Shelf, in_turn: Callable[[], AbstractContextManager[None]]) -> set[str]:
    """Rewrite every segment that holds what a tombstone covers, until there is none.

    in_turn: is held over each step, and let go between them. Returns the names of those that could not be read, for another time.
    Raises StorageFull.
    """
    unreadable: set[str] = set()
    while True:
        with in_turn():
            shelf.tombstones.reload()
            covered = [
                segment
                for segment in listed(shelf.segments)
                if segment.name not in unreadable and any(refused(shelf, entry) for entry in segment.batches)
            ]
        if not covered:
            return unreadable
        for segment in covered:
            try:
                with in_turn():
                    without(shelf, segment, lambda entry: refused(shelf, entry))
            except Unreadable as error:
                unreadable.add(segment.name)
                log.warning("segment_not_erased", segment=segment.name, reason=str(error))


def merge(shelf: Shelf, sources: Sequence[Segment]) -> None:
    """Put one segment in the place of several of one kind; of two copies of a batch one that is sound stays.

    Raises StorageFull, Vanished, Unreadable.
    """
    payloads: dict[str, Payload] = {}
    for source in sources:
        for payload in shelf.segments.payloads(source):
            known = payloads.get(payload.entry.message_id)
            chosen = payload if known is None else min(known, payload, key=_preference)
            payloads[payload.entry.message_id] = chosen
    merged = put(shelf, list(payloads.values()))
    shelf.segments.remove(source.name for source in sources if merged is None or source.name != merged.name)


def due(segments: Iterable[Segment]) -> list[list[Segment]]:
    """The groups that are to be merged while samples come in: tiers that have become large."""
    tiers: dict[tuple[Kind, int], list[Segment]] = {}
    for segment in segments:
        tier = sum(segment.size_bytes >= limit for limit in TIERS_BYTES)
        if tier < len(TIERS_BYTES):
            tiers.setdefault((segment.kind, tier), []).append(segment)
    return [group for tier in tiers.values() if len(tier) >= TIER_SEGMENTS for group in packed(tier)]


def packed(segments: Iterable[Segment]) -> list[list[Segment]]:
    """Groups of two or more segments of one kind that make one of up to SEGMENT_BYTES; what is large already is left out."""
    kinds: dict[Kind, list[Segment]] = {}
    for segment in sorted(segments, key=lambda segment: (segment.size_bytes, segment.name)):
        if segment.size_bytes < TIERS_BYTES[-1]:
            kinds.setdefault(segment.kind, []).append(segment)
    groups: list[list[Segment]] = []
    for kind in kinds.values():
        room_bytes = 0
        for segment in kind:
            if segment.size_bytes > room_bytes:
                groups.append([])
                room_bytes = SEGMENT_BYTES
            groups[-1].append(segment)
            room_bytes -= segment.size_bytes
    return [group for group in groups if len(group) > 1]


def _preference(payload: Payload) -> tuple[bool, float, str, str]:
    """Of two copies the one that is sound; else, as in the catalogue, the one stored first."""
    entry = payload.entry
    return (not payload.is_sound, entry.stored_at, entry.client, entry.device)
