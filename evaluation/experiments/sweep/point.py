"""What is measured at one cut."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evaluation.experiments.sweep.alone import Alone
from evaluation.experiments.sweep.disclosure import GeneratedDisclosure, ReleasedDisclosure
from evaluation.measuring.cost import Bill, NetworkCost
from evaluation.measuring.quality import Quality
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import PictureRow

PROPORTIONAL, FIXED = "evaluations divided by the cut", "fixed evaluations on each side"
"""The two plans, in words."""


@dataclass(frozen=True)
class SideCosts:
    """The two shapes of network that there are: a backbone's, also that of a device that keeps all, and a head's."""

    backbone: NetworkCost
    head: NetworkCost


@dataclass(frozen=True)
class CutPoint:
    """All that was measured at one cut.

    proportional, fixed: fidelity by the two plans.  alone: that of either side alone, empty at the ends.
    released, generated: by seed, then client; None where there is none.
    proportional_bills, fixed_bills: the server's and one device's.
    """

    cut_ratio: float
    proportional: Quality
    fixed: Quality
    alone: Mapping[Alone, Quality]
    released: tuple[tuple[ReleasedDisclosure | None, ...], ...]
    generated: tuple[tuple[GeneratedDisclosure | None, ...], ...]
    proportional_bills: tuple[Bill, Bill]
    fixed_bills: tuple[Bill, Bill]
    pictured: PictureRow

    @property
    def name(self) -> str:
        """How it is called in tables and sentences."""
        return f"c = {self.cut_ratio:g}"

    @property
    def inner(self) -> bool:
        """Whether both sides own a part of the chain."""
        return 0 < self.cut_ratio < 1

    def released_spread(self, of: str) -> Spread | None:
        """A figure of `ReleasedDisclosure`: means over clients, one value for each seed."""
        return _spread_of(self.released, of)

    def generated_spread(self, of: str) -> Spread | None:
        """A figure of `GeneratedDisclosure`: means over clients, one value for each seed."""
        return _spread_of(self.generated, of)

    def device_share(self, bills: tuple[Bill, Bill]) -> float:
        """The device's share of the operations that an image takes."""
        server, device = bills
        return device.image_flops / (server.image_flops + device.image_flops)

    def device_training_share(self) -> float:
        """One device's share of the operations of training, of its own and the server's together."""
        server, device = self.fixed_bills
        return device.training_flops / (server.training_flops + device.training_flops)


def _spread_of(by_seed: Sequence[Sequence[object | None]], of: str) -> Spread | None:
    if any(each is None for of_seed in by_seed for each in of_seed):
        return None
    return spread(fmean(float(getattr(each, of)) for each in of_seed) for of_seed in by_seed)
