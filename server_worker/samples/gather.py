"""Drawn samples as arrays for training: one gather per segment, one conversion per dtype."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from server_worker.samples.batch import Array, Kind
from server_worker.samples.draw import Numbers, Picks, Table
from server_worker.samples.segment import Segment
from server_worker.samples.segments import Arrays

_ZERO = np.float32(0).tobytes()
_TRUE = np.ones(1, bool)


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


class _Visit(NamedTuple):
    """The picks that lie in one segment: their places in the draw, and their rows there."""

    arrays: Arrays
    places: Numbers
    rows: Numbers


def gather(table: Table, picks: Picks, open_segment: Callable[[Segment], Arrays]) -> SampleBatch:
    """The samples that were picked.

    Raises whatever `open_segment` does, and ValueError when the samples are not all of one shape.
    """
    visits = _visits(table, picks, open_segment)
    shape = (len(picks.rows), *table.segments[0].kind.shape)
    has_pairs = any(kind.policy == "pairs" for kind in visits)
    drawn = SampleBatch(
        x=np.empty(shape, np.float32),
        t_cut=picks.t_cut,
        labels=picks.labels,
        t=np.zeros(len(picks.rows), np.int64),
        # Zeros that nobody looks at would take as long to write as the samples.
        noise=np.zeros(shape, np.float32) if has_pairs else np.ndarray(shape, np.float32, _ZERO, 0, (0,) * 4),
    )
    for kind, of_kind in visits.items():
        places = of_kind[0].places if len(of_kind) == 1 else np.concatenate([each.places for each in of_kind])
        _fill(drawn.x, "x", of_kind, places)
        if kind.dtype == "int8":
            _scale(drawn.x, of_kind)
        if kind.policy == "pairs":
            _fill(drawn.noise, "noise", of_kind, places)
            drawn.t[places] = np.concatenate([each.arrays["t"][each.rows] for each in of_kind])
    return drawn


def _visits(
    table: Table, picks: Picks, open_segment: Callable[[Segment], Arrays]
) -> dict[Kind, list[_Visit]]:
    """The picks by kind and segment."""
    order = np.argsort(picks.segments, kind="stable")
    numbers, rows = picks.segments[order], picks.rows[order]
    begins = np.flatnonzero(np.concatenate([_TRUE[: len(order)], numbers[1:] != numbers[:-1]]))
    visits: dict[Kind, list[_Visit]] = {}
    last_kind, of_kind = None, []
    for number, begin, end in zip(
        numbers[begins].tolist(), begins.tolist(), [*begins[1:].tolist(), None], strict=False
    ):
        segment = table.segments[number]
        if segment.kind is not last_kind:
            last_kind, of_kind = segment.kind, visits.setdefault(segment.kind, [])
        of_kind.append(_Visit(open_segment(segment), order[begin:end], rows[begin:end]))
    return visits


def _fill(target: npt.NDArray[np.float32], name: str, visits: Sequence[_Visit], places: Numbers) -> None:
    """Copy one tensor of the picks into their places of `target`; all visits hold it in the same dtype."""
    found = np.empty((len(places), *target.shape[1:]), visits[0].arrays[name].dtype)
    end = 0
    for arrays, _, rows in visits:
        begin, end = end, end + len(rows)
        # "clip" writes straight into `out`; the rows come from the header and are within bounds.
        arrays[name].take(rows, axis=0, out=found[begin:end], mode="clip")
    if len(places) < len(target):
        converted = np.empty(found.shape, np.float32)
        _convert(found, converted)
        target[places] = converted
        return
    ordered = np.empty_like(found)
    ordered[places] = found
    _convert(ordered, target)


def _scale(target: npt.NDArray[np.float32], visits: Sequence[_Visit]) -> None:
    """Undo the quantisation of int8."""
    for arrays, places, rows in visits:
        factors = arrays["scale"][rows] / np.float32(127)
        target[places] *= factors.reshape(-1, 1, 1, 1)


def _convert(values: Array, target: npt.NDArray[np.float32]) -> None:
    """The same numbers as float32. torch converts float16 several times faster than numpy."""
    if values.dtype != np.float16:
        np.copyto(target, values)
        return
    import torch  # noqa: PLC0415  # takes a second, and who only looks into a store never needs it

    torch.from_numpy(target).copy_(torch.from_numpy(values))
