"""Time that nobody can set: how long a job has been waiting, whatever the wall clock says.

Within one boot the kernel counts seconds, sleep included. Across a reboot only this is certain: what had been counted before, and
the time since the machine came up. So a job may live longer than its time to live by as long as the device was switched off, and
never shorter.
"""

import functools
import time
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Moment:
    """A point in time: which boot of the machine, and seconds since it began."""

    boot: str
    seconds: float


def now() -> Moment:
    """The present, from the kernel's boot clock."""
    return Moment(_boot(), time.clock_gettime(time.CLOCK_BOOTTIME))


@functools.cache
def _boot() -> str:
    """Asked once: no process outlives its boot."""
    return _BOOT_ID.read_text().strip()


def elapsed_seconds(carried_seconds: float, anchor: Moment, moment: Moment) -> float:
    """Seconds certain to have passed since something began.

    Args:
        carried_seconds: what had been counted up to `anchor`.
        anchor: when that was last written down.
        moment: now; of the same boot as `anchor` or of a later one.
    """
    if moment.boot == anchor.boot:
        return carried_seconds + max(0.0, moment.seconds - anchor.seconds)
    return carried_seconds + moment.seconds
