"""What this process knows of a store: which segments are there, where each batch is, and what is drawn from."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from server_worker.errors import BrokenSegment, Damaged, StorageFull, StorageUnusable, Unreadable, Vanished
from server_worker.samples.batch import StoredBatch
from server_worker.samples.catalogue import Catalogue, Place
from server_worker.samples.draw import Table, table_of
from server_worker.samples.rewriting import Shelf, put, refused
from server_worker.samples.segment import Segment

log = structlog.get_logger(__name__)

RETIRED_SEGMENTS = 4096
"""So many segments that went are remembered: a snapshot may name them that was taken just before."""


TABLE_SECONDS = 10.0
TABLE_COSTS = 20.0
"""Samples that come in are drawn from after so many seconds, or so many times what making the table takes if that is less."""

YIELD_SECONDS = 0.001


class _Made(NamedTuple):
    """A table, when it was made by the catalogue's counts, and until when mere additions may wait."""

    table: Table
    moves: int
    changes: int
    rests_until_seconds: float


class Index:
    """The index of one storage. Safe to use from several threads.

    writing: held over everything that lists, writes or removes segments.
    newest_stored_at: of all batches ever seen, unix seconds.
    moves_damaged: set damaged segments aside, after rescuing what is good in them; without it they are only disregarded.
    """

    def __init__(self, shelf: Shelf, *, moves_damaged: bool, held_out_share: float) -> None:
        self.writing = threading.RLock()
        self.has_refused = False
        self.newest_stored_at = 0.0
        self._shelf = shelf
        self._moves_damaged = moves_damaged
        self._held_out_share = held_out_share
        self._lock = threading.RLock()  # never held while anything is read or written
        self._catalogue = Catalogue()
        self._retired: OrderedDict[str, Segment] = OrderedDict()
        self._quarantined: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._hidden_at = 0
        self._view: frozenset[str] | None = None
        self._tables: dict[bool, _Made] = {}

    @property
    def samples(self) -> int:
        """How many samples are there."""
        return self._catalogue.samples

    @property
    def size_bytes(self) -> int:
        """The size of all segments together."""
        return self._catalogue.size_bytes

    @property
    def copies(self) -> int:
        """How many batches are there a second time."""
        return self._catalogue.copies

    @property
    def quarantined(self) -> dict[str, str]:
        """Message id, or a segment's name where no more is known, to what is wrong with it."""
        with self._lock:
            return dict(self._quarantined)

    def client_bytes(self, client: str) -> int:
        """The size of the tensors of one client."""
        return self._catalogue.client_bytes.get(client, 0)

    @property
    def largest_client_bytes(self) -> int:
        """The size of the tensors of the client that has most."""
        with self._lock:
            return max(self._catalogue.client_bytes.values(), default=0)

    def client_samples(self) -> dict[str, int]:
        """How many samples there are of each client that has any."""
        with self._lock:
            return {client: samples for client, samples in self._catalogue.client_samples.items() if samples}

    def entries(self) -> list[StoredBatch]:
        """Every batch, in the order of the ids."""
        with self._lock:
            return sorted(
                (place.entry for place in self._catalogue.places.values()), key=lambda entry: entry.message_id
            )

    def place(self, message_id: str) -> Place | None:
        """Where a batch is; None when it is nowhere."""
        with self._lock:
            return self._catalogue.places.get(message_id)

    def segments(self) -> list[Segment]:
        """The segments that are there."""
        with self._lock:
            return list(self._catalogue.segments.values())

    def sync(self) -> int:
        """List again what is there; returns how many batches were new. Raises Damaged for what is no tombstone, Unreadable."""
        with self.writing:
            self._shelf.tombstones.reload()
            names, headers = self._listed()
            with self._lock:
                if self._hidden_at != self._shelf.tombstones.readings:  # whoever has read them anew
                    self._hidden_at = self._shelf.tombstones.readings
                    self._catalogue.hide(lambda place: self._refused(place.entry))
                new = sum(self._insert(headers[name]) for name in names & headers.keys())
                for name in self._catalogue.segments.keys() - names:
                    self._retire(name)
            for segment in headers.values():
                self._examine(segment)
            return new

    def insert(self, segment: Segment) -> None:
        """Take in a segment that was just written."""
        with self._lock:
            self._insert(segment)

    def snapshot(self) -> tuple[str, ...]:
        """The names of the segments, sorted."""
        with self._lock:
            return tuple(sorted(self._catalogue.segments))

    def adopt(self, names: Iterable[str]) -> None:
        """Draw from exactly what these segments hold. Raises Damaged when one of them is not known and cannot be read."""
        wanted = set(names)
        with self.writing:
            if wanted - self._known().keys():
                self.sync()
            known = self._known()
            if missing := wanted - known.keys():
                raise Damaged(
                    f"{len(missing)} of the segments to draw from cannot be read, such as {min(missing)}: "
                    "take a new snapshot of the sample store"
                )
            view = frozenset(entry.message_id for name in wanted for entry in known[name].batches)
            with self._lock:
                self._view = view
                self._tables.clear()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """`writing`, held over one of many steps; who waits for it has it before the next step."""
        with self.writing:
            yield
        time.sleep(YIELD_SECONDS)  # a lock goes to who asks first, and who has just let it go is the fastest

    def table(self, *, held_out: bool) -> Table:
        """What may be drawn at the moment. What has only just come in may be left out for up to TABLE_SECONDS."""
        with self._lock:
            made = self._tables.get(held_out)
            if made is None or self._is_outdated(made):
                started = time.monotonic()
                places = self._catalogue.places
                ids = places.keys() if self._view is None else self._view & places.keys()
                table = table_of((places[each] for each in ids), self._held_out_share, held_out=held_out)
                ended = time.monotonic()
                rest_seconds = min(TABLE_SECONDS, TABLE_COSTS * (ended - started))
                made = _Made(table, self._catalogue.moves, self._catalogue.changes, ended + rest_seconds)
                self._tables[held_out] = made
            return made.table

    def draw_anew(self) -> None:
        """Have the next table hold all that is known now."""
        with self._lock:
            self._tables = {
                held_out: made._replace(rests_until_seconds=0.0) for held_out, made in self._tables.items()
            }

    def _is_outdated(self, made: "_Made") -> bool:
        if made.moves != self._catalogue.moves:
            return True
        if self._view is not None or made.changes == self._catalogue.changes:
            return False  # what has only just come in is in no view
        return not made.table.samples or time.monotonic() >= made.rests_until_seconds

    def salvage(self, broken: BrokenSegment) -> None:
        """Go on without the damaged batches of a segment; the good ones are written anew and the file is set aside."""
        reasons = broken.reasons
        with self.writing:
            with self._lock:
                segment = self._catalogue.segments.get(broken.name)
                if segment is None:
                    return  # another thread was faster
                self._quarantined |= reasons
                self._catalogue.hide(
                    lambda place: place.segment is segment and place.entry.message_id in reasons
                )
            for message_id, reason in reasons.items():
                log.error("sample_batch_damaged", batch_id=message_id, segment=segment.name, reason=reason)
            if self._moves_damaged:
                self._rescue(segment, reasons.keys())
                self.sync()

    def _examine(self, segment: Segment) -> None:
        """Find what is missing of a segment that was cut short."""
        try:
            if not self._shelf.segments.is_whole(segment):
                self._shelf.segments.arrays(segment)
        except (Vanished, Unreadable):
            return  # the next listing finds its successor, or whoever draws tries again
        except BrokenSegment as broken:
            self.salvage(broken)

    def _rescue(self, segment: Segment, damaged: Iterable[str]) -> None:
        damaged = set(damaged)
        try:
            payloads = self._shelf.segments.payloads(segment) if len(damaged) < len(segment.batches) else []
            put(self._shelf, [each for each in payloads if each.entry.message_id not in damaged])
            self._shelf.segments.set_aside(segment.name)
        except (StorageFull, StorageUnusable, Unreadable, Vanished) as error:
            log.warning("quarantine_failed", segment=segment.name, error=str(error))

    def _listed(self) -> tuple[set[str], dict[str, Segment]]:
        """The names of the segments there, and the headers of those not known yet.

        A segment that goes while this looks has a successor, which was there before it went: looking again finds it.
        One that cannot be read, or is listed and not there whenever it is opened, stays unknown until the next listing.
        """
        with self._lock:
            before = set(self._catalogue.segments)
            known = before | self._quarantined.keys()
        headers: dict[str, Segment] = {}
        vanished: Counter[str] = Counter()
        while True:
            names = self._shelf.segments.names()
            gone = before - names
            for name in names - known - headers.keys():
                try:
                    headers[name] = self._shelf.segments.read_header(name)
                except Vanished as error:
                    vanished[name] += 1
                    if vanished[name] > 1:
                        self._leave(name, str(error))
                        known.add(name)
                    else:
                        gone.add(name)
                except Unreadable as error:
                    self._leave(name, str(error))
                    known.add(name)
                except Damaged as error:
                    self._set_aside(name, str(error))
                    known.add(name)
            if not gone:
                return names, headers
            before = names - gone

    def _leave(self, name: str, reason: str) -> None:
        """Say once of a segment that it cannot be read."""
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.error("segment_unreadable", segment=name, reason=reason)

    def _set_aside(self, name: str, reason: str) -> None:
        with self._lock:
            self._quarantined[name] = reason
        log.error("segment_damaged", segment=name, reason=reason)
        if not self._moves_damaged:
            return
        try:
            self._shelf.segments.set_aside(name)
        except (StorageFull, StorageUnusable) as error:
            log.warning("quarantine_failed", segment=name, error=str(error))

    def _insert(self, segment: Segment) -> int:
        for entry in segment.batches:
            self._quarantined.pop(entry.message_id, None)
            self.newest_stored_at = max(self.newest_stored_at, entry.stored_at)
        self._unreadable.discard(segment.name)
        return self._catalogue.insert(segment, self._refused)

    def _retire(self, name: str) -> None:
        segment = self._catalogue.discard(name)
        self._shelf.segments.close([name])
        if segment is not None:
            self._retired[name] = segment
            while len(self._retired) > RETIRED_SEGMENTS:
                self._retired.popitem(last=False)

    def _known(self) -> dict[str, Segment]:
        with self._lock:
            return {**self._retired, **self._catalogue.segments}

    def _refused(self, entry: StoredBatch) -> bool:
        is_refused = refused(self._shelf, entry)
        self.has_refused = self.has_refused or is_refused
        return is_refused
