"""What is believed of a device: the bounds of all that it reports, in one place.

A device says what it likes, and one that lies or is broken must not spoil what is told of all. A figure beyond its bound is left
out, as if it had not been said, and counted; what a device says it has done counts within an allowance, which rises with time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.contract.telemetry import TelemetryV1


@dataclass(frozen=True)
class Bound:
    """The least and the most of a figure that is believed, and why that much."""

    least: float
    most: float
    why: str


@dataclass(frozen=True)
class Allowance:
    """What a device can have done: so much after a long silence, and rising by so much with every second."""

    most: float
    per_second: float
    why: str

    def risen(self, left: float | None, since_seconds: float) -> float:
        """What is left of it after so many seconds; left: before them, None for a device that nobody has heard of."""
        if left is None:
            return self.most
        return min(self.most, left + self.per_second * max(0.0, since_seconds))


GAUGE_BOUNDS: Mapping[str, Bound] = MappingProxyType(
    {
        "outbox_bytes": Bound(0, 2**36, "64 GiB, 256 times the usual quota"),
        "outbox_oldest_seconds": Bound(0, 366 * 86_400.0, "a year without a link"),
        "pool_images": Bound(0, 2**20, "the most that can be set, of 256 labels"),
        "pool_wanted": Bound(0, 2**20, "the same"),
        "epsilon_max": Bound(0, 1e12, "a thousand releases with next to no noise"),
        "image_joules": Bound(0, 1e6, "a kilowatt for a quarter of an hour"),
    }
)
"""Of the gauges in a report; others are not looked at."""
BOUNDS: Mapping[str, Bound] = MappingProxyType(
    {
        "interval_seconds": Bound(1.0, 86_400.0, "what an agent can be set to"),
        "uptime_seconds": Bound(0, 10 * 366 * 86_400.0, "ten years without a restart"),
        **GAUGE_BOUNDS,
    }
)
COUNTED = Allowance(1_000_000, 100, "jobs ended and images released together")
STEPS = Allowance(20_000_000, 1000, "the head's steps: at one a millisecond")
STEP_SECONDS = Allowance(86_400, 1, "what they took: a device makes one at a time")
ALLOWANCES: Mapping[str, tuple[Allowance, ...]] = MappingProxyType(
    {"counters": (COUNTED,), "step_seconds": (STEPS, STEP_SECONDS)}
)
FIGURES = (*BOUNDS, *ALLOWANCES)
"""All by which what is not believed is counted."""
REPORTS = Allowance(10_000, 1, "reports, and each 8 KiB of a longer one: an agent makes one a second at most")
"""The large amount is for those that waited while nobody read them."""


def unbelieved(report: TelemetryV1) -> list[str]:
    """The figures of a report that are beyond their bounds."""
    said = {
        **report.gauges,
        # Last, for a device may call a gauge so.
        "interval_seconds": report.interval_seconds,
        "uptime_seconds": report.uptime_seconds,
    }
    return [name for name in BOUNDS if name in said and believed(name, said[name]) is None]


def believed(name: str, value: float | None) -> float | None:
    """A figure of BOUNDS, or None when it was not said or is beyond its bound."""
    bound = BOUNDS[name]
    return value if value is not None and bound.least <= value <= bound.most else None


def as_markdown() -> list[str]:
    """The bounds as tables, in lines."""
    lines = ["| figure | least | most | why |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {each.least:,.0f} | {each.most:,.0f} | {each.why} |" for name, each in BOUNDS.items()
    ]
    lines += ["", "| what | at once | a second | of |", "|---|---|---|---|"]
    named = [(f"`{name}`", each) for name, of_it in ALLOWANCES.items() for each in of_it]
    named.append(("reports", REPORTS))
    lines += [f"| {name} | {each.most:,.0f} | {each.per_second:,.0f} | {each.why} |" for name, each in named]
    return lines
