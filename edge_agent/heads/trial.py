"""How long a new head is watched, and when that has gone well or badly. Pure: what has happened is passed in."""

from dataclasses import dataclass
from typing import Literal

MAX_STARTS = 2
"""Unfinished starts after which nobody doubts that the head ends the agent."""

MAX_LIVE_STARTS = 3
"""As many unfinished starts in a row, without an image made, and a live head gives way to the one before it."""

Verdict = Literal["on_trial", "good"]


@dataclass(frozen=True)
class Terms:
    """What a head has to do before the one before it is given up: so many images, or so long in an agent that lives.

    images: finished with it, at least 1.
    seconds: for which an agent has been running with it, over restarts.
    """

    images: int = 20
    seconds: float = 600.0


@dataclass(frozen=True)
class Progress:
    """What a head on trial has done.

    starts: agents that took it up and have not ended in order, the present one included.
    """

    images: int
    seconds: float
    starts: int


def verdict(progress: Progress, terms: Terms) -> Verdict:
    """Whether the trial goes on; judged while an agent runs with the head."""
    if progress.images >= terms.images or progress.seconds >= terms.seconds:
        return "good"
    return "on_trial"


def may_start(progress: Progress) -> bool:
    """Whether the head may be taken up once more: not when as many agents as allowed died with it."""
    return progress.starts < MAX_STARTS
