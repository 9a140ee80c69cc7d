"""The index in memory: which segments are there, and where each batch is. A batch that is in two segments counts once."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from server_worker.samples.batch import StoredBatch
from server_worker.samples.segment import Segment


class Place(NamedTuple):
    """One copy of a batch: the `number`-th of a segment."""

    segment: Segment
    number: int

    @property
    def entry(self) -> StoredBatch:
        """What is known of the batch."""
        return self.segment.batches[self.number]

    @property
    def rank(self) -> tuple[float, str, str, str]:
        """Of several copies the one of the lowest rank counts, whoever looks and in whatever order they were found."""
        entry = self.entry
        return (entry.stored_at, entry.client, entry.device, self.segment.name)


class Catalogue:
    """Segments and the batches in them; not safe to use from several threads.

    changes: counts everything that was taken in or out; moves: only what happened to batches known before.
    """

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.places: dict[str, Place] = {}
        self.samples = 0
        self.size_bytes = 0
        self.client_bytes: dict[str, int] = {}
        self.client_samples: dict[str, int] = {}
        self.changes = 0
        self.moves = 0
        self._others: dict[str, list[Place]] = {}

    @property
    def copies(self) -> int:
        """How many copies of batches there are beyond the first of each."""
        return sum(map(len, self._others.values()))

    def insert(self, segment: Segment, hides: Callable[[StoredBatch], bool]) -> int:
        """Take a segment in, but for the batches that are to be hidden; returns how many batches were not known before."""
        if segment.name in self.segments:
            return 0
        self.segments[segment.name] = segment
        self.size_bytes += segment.size_bytes
        self.changes += 1
        new = 0
        for number, entry in enumerate(segment.batches):
            if hides(entry):
                continue
            place, known = Place(segment, number), self.places.get(entry.message_id)
            if known is None:
                new += 1
                self._count(entry, 1)
                self.places[entry.message_id] = place
            else:
                self._settle(entry.message_id, [place, known, *self._others.get(entry.message_id, [])])
        return new

    def discard(self, name: str) -> Segment | None:
        """Take a segment out; batches of which there is another copy stay."""
        segment = self.segments.pop(name, None)
        if segment is None:
            return None
        self.size_bytes -= segment.size_bytes
        self.changes += 1
        self._take_out(
            (entry.message_id for entry in segment.batches), lambda place: place.segment is segment
        )
        return segment

    def hide(self, unwanted: Callable[[Place], bool]) -> None:
        """Take out copies of batches; the segments stay."""
        self.changes += 1
        self._take_out(list(self.places), unwanted)

    def _take_out(self, message_ids: Iterable[str], unwanted: Callable[[Place], bool]) -> None:
        for message_id in message_ids:
            known = self.places.get(message_id)
            if known is not None:
                copies = [known, *self._others.get(message_id, [])]
                self._settle(message_id, [place for place in copies if not unwanted(place)])

    def _settle(self, message_id: str, copies: list[Place]) -> None:
        """Let the copy of the lowest rank stand for the batch."""
        before = self.places.pop(message_id)
        self._count(before.entry, -1)
        self._others.pop(message_id, None)
        if not copies:
            self.moves += 1
            return
        first, *others = sorted(copies, key=lambda place: place.rank)
        self.places[message_id] = first
        self.moves += first is not before
        self._count(first.entry, 1)
        if others:
            self._others[message_id] = others

    def _count(self, entry: StoredBatch, sign: int) -> None:
        self.samples += sign * entry.samples
        self.client_samples[entry.client] = self.client_samples.get(entry.client, 0) + sign * entry.samples
        self.client_bytes[entry.client] = self.client_bytes.get(entry.client, 0) + sign * entry.size_bytes
