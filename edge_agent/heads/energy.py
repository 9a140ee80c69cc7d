"""What computing costs in energy: counted by the processor where it may be read, else estimated from what the device draws."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edge_agent.errors import EnergyUnknown
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool

POWERCAP = Path("/sys/class/powercap")
_JOULES = 1e-6  # the kernel counts microjoules
_METERED_IMAGES: Final = "metered_images"
_METERED_MILLIJOULES: Final = "metered_millijoules"


@dataclass(frozen=True)
class _Counter:
    """One processor package: the file that counts, and where it begins again at 0, in microjoules."""

    path: Path
    range_microjoules: int

    def read(self) -> int:
        return int(self.path.read_text())


class EnergyMeter:
    """Reads the counters of all processor packages (RAPL), or, where there are none, multiplies time by power.

    power_watts: what the device draws while it computes; used where nothing can be measured.
    kind: "measured", "estimated", or None where nothing is known.
    """

    def __init__(self, power_watts: float | None = None, powercap: Path = POWERCAP) -> None:
        self._power_watts = power_watts
        self._counters = _readable_counters(powercap)
        self.kind: Literal["measured", "estimated"] | None = (
            "measured" if self._counters else "estimated" if power_watts is not None else None
        )

    def read(self) -> tuple[int, ...]:
        """The counters now, for `joules_since`; empty where nothing is measured or a counter cannot be read any more."""
        try:
            return tuple(counter.read() for counter in self._counters)
        except (OSError, ValueError):
            return ()

    def joules_since(self, before: tuple[int, ...], seconds: float) -> float | None:
        """What was used since `before` was read, `seconds` ago; None when nobody knows.

        Counted is all that the processor does, idle power and other programs included.
        """
        now = self.read()
        if before and len(now) == len(before):
            used = [
                (later - earlier) % counter.range_microjoules
                for counter, earlier, later in zip(self._counters, before, now, strict=True)
            ]
            return sum(used) * _JOULES
        return None if self._power_watts is None else self._power_watts * seconds

    def require(self) -> None:
        """Raise EnergyUnknown where no budget of energy can be kept."""
        if self.kind is None:
            raise EnergyUnknown(
                f"budget_joules is set, but this machine lets nobody read {POWERCAP}/intel-rapl:*/energy_uj: say what the"
                " device draws with power_watts, or give the budget as budget_ms"
            )


def note_energy(transaction: sqlite3.Connection, images: int, joules: float) -> None:
    """Count what the head took to finish so many images, of which it is known."""
    counters.add(transaction, _METERED_IMAGES, images)
    counters.add(transaction, _METERED_MILLIJOULES, round(1000 * joules))


def image_joules(spool: Spool) -> float | None:
    """What the head took to finish an image here, in the mean over all of which it is known; None when it is of none."""
    images = counters.value(spool, _METERED_IMAGES)
    return counters.value(spool, _METERED_MILLIJOULES) / 1000 / images if images else None


def _readable_counters(powercap: Path) -> tuple[_Counter, ...]:
    """One per package; its parts, such as intel-rapl:0:1, are counted in it."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if zone.name.count(":") > 1 or not (zone / "name").read_text().startswith("package"):
                continue
            limit = int((zone / "max_energy_range_uj").read_text()) + 1
            counter = _Counter(zone / "energy_uj", limit)
            counter.read()
        except (OSError, ValueError):
            continue  # on most systems only root may read them
        found.append(counter)
    return tuple(found)
