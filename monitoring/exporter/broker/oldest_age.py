"""How long the oldest message of a queue has waited, from counters alone.

Not every supported RabbitMQ tells the age of a quorum queue's head, but all of them tell two numbers: how
many messages were ever published to the queue (P) and how many it holds now (d). A queue is first in, first
out, so its head is message number P − d + 1, and it arrived when the published count passed P − d. Looking
that moment up in the past observations gives the age, to within one interval between observations.
"""

from collections import deque


class QueueHistory:
    """The past counts of one queue, and the age of its head.

    The age is a lower bound: the head is at least that old, and younger than that plus the interval in
    which it came. Messages that were there at the first observation count from that observation (nothing
    older is known). Messages taken out of order make the true age larger, never smaller, than what is
    reported.

    A published count that falls (the broker's statistics were lost) starts again without losing what is
    known. Messages that came without being counted are noticed as soon as the queue holds more than was
    ever published to it.

    Args:
        max_entries: bound on the memory; when it is reached, every second past observation is forgotten,
        which
            makes the ages of what lies far back coarser.
    """

    def __init__(self, max_entries: int = 512) -> None:
        if max_entries < 4:
            raise ValueError(f"a history needs at least 4 entries, not {max_entries}")
        self._max_entries = max_entries
        # (time, how many had arrived by then), both increasing; the first entry holds the head of the queue.
        self._arrivals: deque[tuple[float, int]] = deque()
        self._arrived = -1
        self._offset = 0
        self._last_published = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def observe(self, time: float, published: int | None, depth: int) -> float:
        """Take one observation in and return the age of the head.

        Args:
            time: a monotonic clock, in seconds, not before the previous observation's.
            published: messages ever published to the queue; None when the broker did not say.
            depth: messages in the queue now, delivered ones without an acknowledgement included.

        Returns:
            Seconds since the head of the queue was first seen; 0 for an empty queue.
        """
        arrived = self._arrived_by_now(self._last_published if published is None else published, depth)
        gone = arrived - depth
        while self._arrivals and self._arrivals[0][1] <= gone:
            self._arrivals.popleft()
        if depth == 0:
            return 0.0
        if not self._arrivals or arrived > self._arrivals[-1][1]:
            self._arrivals.append((time, arrived))
            self._thin()
        return time - self._arrivals[0][0]

    def _arrived_by_now(self, published: int, depth: int) -> int:
        if published < self._last_published:
            self._offset += self._last_published
        self._last_published = published
        arrived = max(self._arrived, self._offset + published, depth)
        # With nothing in the queue, or nothing known yet, the difference between the counts cannot matter:
        # settle it. Otherwise the depth may merely be ahead of the statistics, and what is settled now
        # would be counted twice.
        if depth == 0 or self._arrived < 0:
            self._offset = arrived - published
        self._arrived = arrived
        return arrived

    def _thin(self) -> None:
        """Forget every second observation but the first and last; what came in one counts for the next."""
        if len(self._arrivals) <= self._max_entries:
            return
        kept = list(self._arrivals)
        self._arrivals = deque([kept[0], *kept[2:-1:2], kept[-1]])
