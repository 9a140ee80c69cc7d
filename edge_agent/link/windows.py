"""The times of day at which a device connects. Pure: the time is passed in.

A window is the one decision that follows the wall clock, because it speaks of it. On a device whose clock is wrong it opens at
another hour; what is to be sent waits until then, and nothing is lost. Where clocks are changed for the summer a window moves
with them: one within the hour that is left out does not open that night, and one within the hour that comes twice opens twice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from edge_agent.errors import WindowError

DAY_SECONDS = 86_400
_WINDOW = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})", re.ASCII)


@dataclass(frozen=True)
class Windows:
    """Spans of seconds since midnight, the end excluded; one that ends before it begins goes over midnight."""

    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Self:
        """Read `02:00-05:00` and the like; none means always. Raises WindowError naming the one that cannot be read."""
        return cls(tuple(_span(text) for text in texts))

    def is_open(self, second: float) -> bool:
        """Whether to be connected at `second` of the day, 0 to 86,400."""
        return not self.spans or any(_within(span, second) for span in self.spans)

    def opens_at(self, second: float) -> str | None:
        """The time of day at which the next window opens, such as `02:00`; None when one is open."""
        if self.is_open(second):
            return None
        start = min((span[0] for span in self.spans), key=lambda start: (start - second) % DAY_SECONDS)
        return f"{start // 3600:02d}:{start % 3600 // 60:02d}"


def _within(span: tuple[int, int], second: float) -> bool:
    start, end = span
    return start <= second < end if start < end else second >= start or second < end


def _span(text: str) -> tuple[int, int]:
    found = _WINDOW.fullmatch(text.strip())
    if found is not None:
        hours, minutes, end_hours, end_minutes = map(int, found.groups())
        start, end = hours * 3600 + minutes * 60, end_hours * 3600 + end_minutes * 60
        if minutes < 60 and end_minutes < 60 and start < DAY_SECONDS and end <= DAY_SECONDS and start != end:
            return start, end
    raise WindowError(
        f"{text!r} is no time of day to connect at: write windows as 02:00-05:00, several parted by commas, 24:00 for midnight"
    )
