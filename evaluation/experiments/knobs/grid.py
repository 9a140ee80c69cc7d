"""What is measured over both knobs, and which of it comes within the spread of the best."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from evaluation.measuring.quality import COLUMNS, Figure
from evaluation.measuring.verdicts import better_of
from evaluation.metrics.sets import SetFidelity
from evaluation.metrics.spread import Spread, spread


class GridKey(NamedTuple):
    """A cell of the grid."""

    server_steps: int
    cut_ratio: float
    head_steps: int


class SamplerKey(NamedTuple):
    """A way to sample at the most private cut, and how many evaluations the head makes."""

    sampler: str
    spacing: str
    head_steps: int


Measured = tuple[tuple[SetFidelity, ...], ...]
"""For every seed, every client, against held-out images."""


@dataclass(frozen=True)
class Grid:
    """cells: by the design's sampler;  samplers: by every sampler and spacing, with all of the server's evaluations."""

    cells: Mapping[GridKey, Measured]
    samplers: Mapping[SamplerKey, Measured]

    def level(self, server_steps: int) -> dict[GridKey, Spread]:
        """FID of every cell with so many server evaluations: means over clients, one value for each seed."""
        return {
            key: fid_of(measured) for key, measured in self.cells.items() if key.server_steps == server_steps
        }


def fid_of(measured: Measured) -> Spread:
    """Means over clients, one value for each seed."""
    return spread(fmean(client.fid.value for client in clients) for clients in measured)


def best_of(level: Mapping[GridKey, Spread]) -> GridKey:
    """The cell of the least mean FID."""
    return min(level, key=lambda key: level[key].mean)


def within_spread_of_best(level: Mapping[GridKey, Spread]) -> set[GridKey]:
    """The cells that the seeds do not separate from the best, which is one of them."""
    best, among = level[best_of(level)], max(1, len(level) - 1)
    column = COLUMNS[Figure.FID]
    return {key for key, figure in level.items() if better_of(column, best, figure, among=among) <= 0}
