"""Which devices a rollout reaches first: always the same ones for a head, and others for the next. Pure."""

import hashlib

_PARTS = 10_000


def place_of(name: str, counter: int, user: str) -> float:
    """Where a device stands in the order of a rollout: [0, 1), evenly spread over devices, anew for every head.

    Args:
        name: of the head.
        counter: of the head.
        user: of the device, `<client>_<device>`.
    """
    digest = hashlib.sha256(f"{name}\0{counter}\0{user}".encode()).digest()
    return int.from_bytes(digest[:8]) % _PARTS / _PARTS


def in_cohort(name: str, counter: int, user: str, percent: float) -> bool:
    """Whether a device belongs to the first `percent` of a rollout; whoever does, belongs to every larger share too."""
    return place_of(name, counter, user) * 100 < percent
