"""How often a segment is looked for again that cannot be read, or goes while it is opened."""

import time

from server_worker.errors import Unreadable, Vanished

READ_TRIES = 5
"""Looks at most, the first one included."""
RETRY_SECONDS = 0.05
"""Before the second try; doubled each time."""


class Patience:
    """Bounds how often something is tried again that may never succeed."""

    def __init__(self) -> None:
        self._tries = 0

    def lose(self, error: Vanished | Unreadable) -> None:
        """Wait a little before the next try, longer each time; after READ_TRIES of them raises Unreadable."""
        self._tries += 1
        if self._tries < READ_TRIES:
            time.sleep(RETRY_SECONDS * 2 ** (self._tries - 1) * (self._tries > 1))
            return
        if isinstance(error, Unreadable):
            raise error
        raise Unreadable(
            f"the segment {error.name} is listed and is not there: remove the entry if it is a broken link"
        ) from error
