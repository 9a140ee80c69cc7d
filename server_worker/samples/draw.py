"""Which samples are drawn: a client with the same probability as any other, then one of its samples.

Nothing here looks at a tensor, and nothing runs once per sample: picks are arrays of row numbers.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server_worker.samples.catalogue import Place
from server_worker.samples.segment import Segment

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Picks:
    """Samples picked, each (B,) int64: the number of its segment in the table, its row there, its cut and its label."""

    segments: Numbers
    rows: Numbers
    t_cut: Numbers
    labels: Numbers

    def part(self, picks: slice) -> "Picks":
        """Some of them."""
        return Picks(self.segments[picks], self.rows[picks], self.t_cut[picks], self.labels[picks])


@dataclass(frozen=True, eq=False)
class Table:
    """What may be drawn, the batches in the order of (client, message id): what is drawn depends on what is stored alone.

    segments: those that hold it. Per batch: the number of its segment, its cut, in `ends` how many samples there are up to its
    end, and in `shifts` what is to be added to the position of a sample among all for its row in the segment. Per sample: its
    label. Per client: how many samples stand before its own, and how many are its own.
    """

    segments: tuple[Segment, ...]
    segment_numbers: Numbers
    t_cut: Numbers
    ends: Numbers
    shifts: Numbers
    labels: Numbers
    client_starts: Numbers
    client_samples: Numbers

    @property
    def samples(self) -> int:
        """How many samples may be drawn."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def pick(self, rng: np.random.Generator, size: int) -> Picks:
        """Draw `size` samples with replacement; takes 2·size doubles from `rng`, whatever the table holds."""
        client = _below(rng.random(size), len(self.client_samples))
        position = self.client_starts[client] + _below(rng.random(size), self.client_samples[client])
        batch = np.searchsorted(self.ends, position, side="right")
        rows = position + self.shifts[batch]
        return Picks(self.segment_numbers[batch], rows, self.t_cut[batch], self.labels[position])


def table_of(places: Iterable[Place], held_out_share: float, *, held_out: bool) -> Table:
    """What may be drawn of some batches: the part that is kept from training, or the rest.

    held_out_share: of each batch, so much is kept from training.
    """
    ordered = sorted(places, key=lambda place: (place.entry.client, place.entry.message_id))
    numbers: dict[str, int] = {}
    segments: list[Segment] = []
    rows: list[tuple[int, int, int, int]] = []
    clients: list[str] = []
    labels: list[Numbers] = [np.empty(0, np.int64)]
    for segment, index in ordered:
        entry = segment.batches[index]
        kept = held_out_of(entry.message_id, entry.samples, held_out_share)
        count = kept if held_out else entry.samples - kept
        if not count:
            continue
        number = numbers.setdefault(segment.name, len(segments))
        if number == len(segments):
            segments.append(segment)
        first = segment.starts[index] + (entry.samples - kept if held_out else 0)
        rows.append((number, first, entry.t_cut, count))
        labels.append(segment.labels[first : first + count])
        clients.append(entry.client)
    number_of, first_rows, t_cut, counts = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    ends = np.cumsum(counts)
    shifts = first_rows - (ends - counts)
    starts_at = [i for i, client in enumerate(clients) if not i or client != clients[i - 1]]
    client_starts = (ends - counts)[starts_at]
    client_samples = np.diff(client_starts, append=ends[-1:])
    return Table(
        tuple(segments), number_of, t_cut, ends, shifts, np.concatenate(labels), client_starts, client_samples
    )


def _below(u: npt.NDArray[np.float64], limits: Numbers | int) -> Numbers:
    """Numbers in [0, limit) from numbers in [0, 1); the product of the largest of these may round to the limit itself."""
    return np.minimum((u * limits).astype(np.int64), limits - 1)


def held_out_of(message_id: str, samples: int, share: float) -> int:
    """How many of a batch's samples, the last ones, are kept from training: ⌊samples·share + u⌋.

    u in [0, 1) comes from the id, so that the share is right on the whole even if every batch holds one sample.
    """
    if not share:
        return 0
    u = int.from_bytes(hashlib.sha256(message_id.encode()).digest()[:6], "big") / 2**48
    return min(samples, math.floor(samples * share + u))
