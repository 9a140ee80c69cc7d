"""How often each device reports: one that floods the queue is noticed, and what it sends costs next to nothing."""

from collections import OrderedDict
from itertools import islice

from monitoring.exporter.fleet.believed import REPORTS

SENDERS_MAX = 50_000
_CHARGE_BYTES = 8 * 1024
"""Room for the longest report that an agent makes."""


class ReportPace:
    """What each device may still report, by REPORTS.

    Who may report all of it again is forgotten, and beyond SENDERS_MAX who was heard of longest ago: never one that floods.
    """

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """User → (what was left, when), the longest ago first."""

    def admits(self, user: str, size_bytes: int, now_seconds: float) -> bool:
        """Whether a report of so many bytes is taken, which then counts; one that is not costs the device nothing."""
        left, at = self._left.get(user, (None, now_seconds))
        risen = REPORTS.risen(left, now_seconds - at)
        charge = 1 + size_bytes // _CHARGE_BYTES
        is_taken = charge <= risen
        self._left[user] = (risen - charge if is_taken else risen, now_seconds)
        self._left.move_to_end(user)
        self._forget(now_seconds)
        return is_taken

    def __len__(self) -> int:
        return len(self._left)

    def _forget(self, now_seconds: float) -> None:
        """Looks at the two that were heard of longest ago: more than come in with a report."""
        for user in list(islice(self._left, 2)):
            left, at = self._left[user]
            if REPORTS.risen(left, now_seconds - at) >= REPORTS.most or len(self._left) > SENDERS_MAX:
                del self._left[user]
