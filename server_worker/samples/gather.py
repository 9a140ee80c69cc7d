"""Drawn samples as arrays for training: one gather per segment, one conversion per dtype."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from server_worker.samples.batch import Array
from server_worker.samples.draw import Picks, Table
from server_worker.samples.segment import Segment
from server_worker.samples.segments import Arrays

_ZERO = np.float32(0)


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """Training samples drawn from the store.

    x: (B, C, H, W) float32; a release x_c, or x_t where the sample came as a pair.
    t_cut: (B,) int64.
    labels: (B,) int64, NO_LABEL where there is none.
    t: (B,) int64; 0 where t is to be drawn, else the pair's own.
    noise: (B, C, H, W) float32, the pair's own; zeros where it is to be drawn. Read-only when no sample is a pair.
    """

    x: npt.NDArray[np.float32]
    t_cut: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    t: npt.NDArray[np.int64]
    noise: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Visit:
    """The picks that lie in one segment: their places in the draw, and their rows there."""

    segment: Segment
    arrays: Arrays
    places: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def gather(table: Table, picks: Picks, open_segment: Callable[[Segment], Arrays]) -> SampleBatch:
    """The samples that were picked.

    Raises whatever `open_segment` does, and ValueError when the samples are not all of one shape.
    """
    visits = _visits(table, picks, open_segment)
    pairs = [visit for visit in visits if "noise" in visit.arrays]
    shape = visits[0].segment.kind.shape
    size = len(picks.rows)
    drawn = SampleBatch(
        x=np.empty((size, *shape), np.float32),
        t_cut=picks.t_cut,
        labels=picks.labels,
        t=np.zeros(size, np.int64),
        # Zeros that nobody looks at take as long to write as the samples.
        noise=np.zeros((size, *shape), np.float32) if pairs else np.broadcast_to(_ZERO, (size, *shape)),
    )
    for dtype in {visit.segment.kind.dtype for visit in visits}:
        _fill(drawn.x, "x", [visit for visit in visits if visit.segment.kind.dtype == dtype])
    _scale(drawn.x, [visit for visit in visits if "scale" in visit.arrays])
    if pairs:
        _fill(drawn.noise, "noise", pairs)
    for visit in pairs:
        drawn.t[visit.places] = visit.arrays["t"][visit.rows]
    return drawn


def _visits(table: Table, picks: Picks, open_segment: Callable[[Segment], Arrays]) -> list[_Visit]:
    order = np.argsort(picks.segments, kind="stable")
    numbers, rows = picks.segments[order], picks.rows[order]
    bounds = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist(), len(order)]
    visits = []
    for begin, end in pairwise(bounds):
        segment = table.segments[numbers[begin]]
        visits.append(_Visit(segment, open_segment(segment), order[begin:end], rows[begin:end]))
    return visits


def _fill(target: npt.NDArray[np.float32], name: str, visits: list[_Visit]) -> None:
    """Copy one tensor of the picks into their places of `target`; all visits hold it in the same dtype."""
    bounds = np.cumsum([0, *(len(visit.places) for visit in visits)]).tolist()
    found = np.empty((bounds[-1], *target.shape[1:]), visits[0].arrays[name].dtype)
    for visit, begin, end in zip(visits, bounds[:-1], bounds[1:], strict=True):
        # "clip" writes straight into `out`; the rows come from the header and are within bounds.
        visit.arrays[name].take(visit.rows, axis=0, out=found[begin:end], mode="clip")
    places = visits[0].places if len(visits) == 1 else np.concatenate([visit.places for visit in visits])
    if len(places) < len(target):
        converted = np.empty(found.shape, np.float32)
        _convert(found, converted)
        target[places] = converted
        return
    ordered = np.empty_like(found)
    ordered[places] = found
    _convert(ordered, target)


def _scale(target: npt.NDArray[np.float32], visits: list[_Visit]) -> None:
    """Undo the quantisation of int8."""
    for visit in visits:
        factors = visit.arrays["scale"][visit.rows] / np.float32(127)
        target[visit.places] *= factors.reshape(-1, 1, 1, 1)


def _convert(values: Array, target: npt.NDArray[np.float32]) -> None:
    """The same numbers as float32. torch converts float16 several times faster than numpy."""
    if values.dtype != np.float16:
        np.copyto(target, values)
        return
    import torch  # noqa: PLC0415  # takes a second, and who only looks into a store never needs it

    torch.from_numpy(target).copy_(torch.from_numpy(values))
