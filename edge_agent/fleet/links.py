"""When the link of a simulated device stands: a pure function of the device, a seed and the time of a simulated day.

Times are seconds of the simulated world, in which a simulation begins at midnight; a faster clock is the caller's business.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from edge_agent.errors import SimulationError

LinkClass = Literal["always", "hourly", "nightly", "flaky"]
CLASSES: tuple[LinkClass, ...] = get_args(LinkClass)
MIXED = "mixed"

HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS
HOURLY_UP_SECONDS = 20 * 60.0
NIGHT_BEGIN_SECONDS = 2 * HOUR_SECONDS
NIGHT_SPREAD_SECONDS = HOUR_SECONDS
NIGHT_SECONDS = 3 * HOUR_SECONDS
FLAKY_SLOT_SECONDS = 2 * HOUR_SECONDS
FLAKY_LONGEST_SECONDS = HOUR_SECONDS


@dataclass(frozen=True)
class LinkSchedule:
    """The link of one device.

    kind: `always` up; `hourly`, for twenty minutes of every hour; `nightly`, for three hours that begin between two and three
        o'clock; `flaky`, which breaks once in every two hours, for up to one.
    device, seed: two devices differ in when, and one device is the same in every run of a seed.
    """

    kind: LinkClass
    device: int
    seed: int

    @property
    def abrupt(self) -> bool:
        """Whether it goes down as a wire breaks, and not as somebody hangs up."""
        return self.kind == "flaky"

    def is_up(self, second: float) -> bool:
        """Whether it stands at this second, 0 or more, of the simulated world."""
        if self.kind == "always":
            return True
        if self.kind == "hourly":
            phase_seconds = self._draw("phase") * HOUR_SECONDS
            return (second + phase_seconds) % HOUR_SECONDS < HOURLY_UP_SECONDS
        if self.kind == "nightly":
            begin = NIGHT_BEGIN_SECONDS + self._draw("begin") * NIGHT_SPREAD_SECONDS
            return 0 <= second % DAY_SECONDS - begin < NIGHT_SECONDS
        slot, into_seconds = divmod(second, FLAKY_SLOT_SECONDS)
        outage_seconds = self._draw(f"outage {slot:.0f}") * FLAKY_LONGEST_SECONDS
        begin = self._draw(f"break {slot:.0f}") * (FLAKY_SLOT_SECONDS - outage_seconds)
        return not begin <= into_seconds < begin + outage_seconds

    def _draw(self, what: str) -> float:
        """A number in [0, 1) that belongs to this device and purpose."""
        digest = hashlib.sha256(f"{self.seed}|{self.device}|{what}".encode()).digest()
        return int.from_bytes(digest[:6], "little") / 2**48


def links_of(kinds: str, devices: int, seed: int) -> list[LinkSchedule]:
    """The links of devices 0, 1, …: all of one class, or `mixed`, which gives each class to every fourth.

    Raises SimulationError when there is no such class.
    """
    if kinds != MIXED and kinds not in CLASSES:
        raise SimulationError(f"there are no links of class {kinds!r}: use {', '.join(CLASSES)} or {MIXED}")
    chosen = [kind for kind in CLASSES if kinds in (kind, MIXED)]
    return [LinkSchedule(chosen[device % len(chosen)], device, seed) for device in range(devices)]
