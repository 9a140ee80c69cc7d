"""The process in which an agent has a head tried, seen from outside."""

import array
import fcntl
import termios
from pathlib import Path


def checking_process() -> int | None:
    """The process in which this one has a head tried, once it has read the head and is at work with it."""
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            process = Path("/proc", child)
            try:
                if b"golden_check" in (process / "cmdline").read_bytes() and has_spoken(process):
                    return int(child)
            except OSError:
                continue  # it has ended meanwhile
    return None


def has_spoken(process: Path) -> bool:
    """Whether something that nobody has read yet stands in the pipe that is its standard output."""
    waiting = array.array("i", [0])
    with (process / "fd" / "1").open("rb", buffering=0) as pipe:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] > 0
