"""Rounds as the server announces them."""

from typing import Any

from broker.contract.rounds import RoundV1
from diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(200)


def opened_round(**changes: Any) -> RoundV1:
    """One that takes the images and the heads of these tests, unless told otherwise."""
    fields: dict[str, Any] = {
        "number": 1,
        "schedule_name": "cosine",
        "schedule_T": SCHEDULE.T,
        "schedule_id": SCHEDULE.schedule_id,
        "shape": (1, 8, 8),
        "num_classes": 3,
        "cut_min": 0.1,
        "cut_max": 0.5,
        "releases_wanted": 4,
        "backbone_version": 0,
    }
    return RoundV1(**(fields | changes))
