"""How often a segment is looked for again that cannot be read, or goes while it is opened."""

import time

from server_worker.errors import Unreadable, Vanished

READ_TRIES = 8
"""Looks at most, the first one included."""
FIRST_SECONDS = 0.05
LIMIT_SECONDS = 0.25
"""Between two tries, but for the first two: what was merged has moved and is there at once."""


class Patience:
    """Bounds how often something is tried again that may never succeed."""

    def __init__(self) -> None:
        self._tries = 0

    def lose(self, error: Vanished | Unreadable) -> None:
        """Wait a little before the next try, longer each time; after READ_TRIES of them raises Unreadable."""
        self._tries += 1
        if self._tries < READ_TRIES:
            if self._tries > 1:
                time.sleep(min(LIMIT_SECONDS, FIRST_SECONDS * 2 ** (self._tries - 1)))
            return
        if isinstance(error, Unreadable):
            raise error
        raise Unreadable(
            f"the segment {error.name} is listed and is not there: remove the entry if it is a broken link"
        ) from error
