"""One line of a plan: a number, its unit, and where it comes from."""

from dataclasses import dataclass
from typing import Literal

How = Literal["measured", "derived", "encoded", "given", "documented"]
"""`encoded`: a real message was made and weighed; `given`: by a flag; `documented`: by who makes the program."""


@dataclass(frozen=True)
class Item:
    """One figure of the plan.

    value: in `unit`, which is a base unit (bytes, seconds, messages/s); None where it cannot be known.
    how, source: where it comes from, in a word and in words.
    """

    section: str
    name: str
    value: float | None
    unit: str
    how: How
    source: str


@dataclass(frozen=True)
class Assumption:
    """What the plan takes for granted, and who says so."""

    text: str
    how: How


@dataclass(frozen=True)
class Plan:
    """All of it: the figures, what they rest on, and what the reader must know before believing them."""

    items: tuple[Item, ...]
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]

    def value(self, name: str) -> float | None:
        """The value of the item of this name. Raises KeyError."""
        for item in self.items:
            if item.name == name:
                return item.value
        raise KeyError(name)
