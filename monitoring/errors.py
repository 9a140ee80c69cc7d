"""The root of every error that is written for a person.

Each room keeps its own tree in its `errors.py`; all of them grow from `CollafuseError`, so that the command
can print one clear line and exit non-zero, and so that a consumer can decide what becomes of a message by
the error's disposition alone.
"""

from enum import StrEnum


class Disposition(StrEnum):
    """What becomes of the work in hand when an error ends it."""

    STOP = "stop"
    """The process cannot go on: say why and exit."""

    RETRY = "retry"
    """Nothing is wrong with the work: put it back and try again later."""

    DEAD_LETTER = "dead-letter"
    """The work itself is at fault: set it aside with the reason."""


class CollafuseError(Exception):
    """An expected failure; its message says what happened, to what, and what to do."""

    disposition = Disposition.STOP


class MonitoringError(CollafuseError):
    """A log or metrics set-up that cannot work, such as a port that somebody else holds."""
