"""What every part of a plan is reckoned from, made once."""

from dataclasses import dataclass

from collafuse.plan.demand import Demand
from collafuse.plan.figures import Figures
from collafuse.plan.item import How, Item
from collafuse.plan.sizes import Sizes, sizes_of
from collafuse.plan.traffic import Traffic, traffic_of


@dataclass(frozen=True)
class Basis:
    """A demand, the messages and streams that follow from it, and what was measured."""

    demand: Demand
    sizes: Sizes
    traffic: Traffic
    figures: Figures

    @classmethod
    def of(cls, demand: Demand, figures: Figures) -> "Basis":
        """Encode the messages of a demand and add them up."""
        sizes = sizes_of(demand)
        return cls(demand, sizes, traffic_of(demand, sizes), figures)


@dataclass(frozen=True)
class Section:
    """Makes the items of one section of a plan."""

    name: str

    def item(self, name: str, value: float | None, unit: str, how: How, source: str) -> Item:
        """One line in it."""
        return Item(self.name, name, value, unit, how, source)
