"""Opens and closes the link at the times of day that were set."""

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from edge_agent.link.windows import Windows

log = structlog.get_logger(__name__)


class Door(Protocol):
    """What is opened and closed: a `broker.connection.Connection`."""

    def pause(self) -> None:
        """Close the link and leave it closed."""

    def resume(self) -> None:
        """Connect again."""


class Doorkeeper:
    """A duty of the agent: the link stands within the windows and nowhere else.

    A request for images does not open it: whoever sets windows wants no traffic outside them. It waits in the outbox, or is made
    from the stock.

    windows: by this device's local time.  door: the link.  second_of_day: seconds since local midnight.
    """

    def __init__(
        self, windows: Windows, door: Door, second_of_day: Callable[[], float] | None = None
    ) -> None:
        self._windows = windows
        self._door = door
        self._second_of_day = second_of_day or _local_second_of_day
        self._closed_until: str | None = None

    @property
    def closed_until(self) -> str | None:
        """The time of day at which the link is opened, such as `02:00`; None while it may stand."""
        return self._closed_until

    def turn(self) -> None:
        """Open or close the link when it is time; the first call closes one that should not have been opened yet."""
        closed_until = self._windows.opens_at(self._second_of_day())
        if closed_until == self._closed_until:
            return
        if closed_until is None:
            log.info("window_opened")
            self._door.resume()
        else:
            log.info("window_closed", until=closed_until)
            self._door.pause()
        self._closed_until = closed_until


def _local_second_of_day() -> float:
    now = time.localtime()
    return now.tm_hour * 3600.0 + now.tm_min * 60.0 + now.tm_sec
