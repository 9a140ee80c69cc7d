"""Whom not to believe: the devices that of late said what cannot be, sent what is no report, or reported far too often."""

from collections import Counter, OrderedDict
from typing import Literal

import structlog

log = structlog.get_logger(__name__)

Cause = Literal["figures", "refused", "flood"]

DOUBT_SECONDS = 900.0
DOUBTS_MAX = 1000
"""Devices kept for each cause: however many are refused, as of a version that is not known, one that floods is told as well."""
NAMED = 10
OTHERS = "other"
"""Stands for the devices that are not named; none can be called so, for there is an underscore in the names of all."""


class Doubts:
    """Devices with the cause, each for a quarter of an hour since it last gave one; bounded, so that many cost no more."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, Cause], float] = OrderedDict()

    def note(self, user: str, cause: Cause, now_seconds: float, what: str) -> None:
        """A device gave cause; the first time, and after a quarter of an hour without, it is logged. what: for the log."""
        if (user, cause) not in self._last:
            self._forget(now_seconds)
            if sum(each == cause for _, each in self._last) >= DOUBTS_MAX:
                return
            log.warning("device_distrusted", device=user, cause=cause, what=what)
        self._last[user, cause] = now_seconds

    def shown(self, now_seconds: float, named: int) -> dict[tuple[str, Cause], int]:
        """(device, cause) → 1 for the first few, and for each cause (OTHERS, cause) → how many more there are."""
        self._forget(now_seconds)
        pairs = list(self._last)
        causes: tuple[Cause, ...] = ("figures", "refused", "flood")
        more = Counter(cause for _, cause in pairs[named:])
        return dict.fromkeys(pairs[:named], 1) | {(OTHERS, cause): more[cause] for cause in causes}

    def _forget(self, now_seconds: float) -> None:
        """Those stay in their order, so that who is named stays named."""
        for pair in [pair for pair, at in self._last.items() if now_seconds - at > DOUBT_SECONDS]:
            del self._last[pair]
