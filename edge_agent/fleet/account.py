"""What became of a fleet's messages: one tally for each device, summed up by class of link."""

from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.fleet.links import CLASSES, LinkClass


@dataclass(frozen=True)
class Tally:
    """One device.

    attempted: messages that its outbox accepted.  refused: releases that it did not accept, for want of room.
    waiting: messages still in the outbox.  stored: messages for which the server sent a receipt.
    duplicated: letters that came to the device again, which a message that was sent twice brings about.
    reconnected: how often the link came up.
    drained_seconds: from the opening of all links until the outbox was empty and every receipt there; None until then.
    """

    device: int
    link: LinkClass
    attempted: int
    refused: int
    waiting: int
    stored: int
    duplicated: int
    reconnected: int
    drained_seconds: float | None

    @property
    def acknowledged(self) -> int:
        """Messages that the outbox let go of, which it does when the broker has confirmed them."""
        return self.attempted - self.waiting

    @property
    def lost(self) -> int:
        """Messages that are neither in the outbox nor stored, once all receipts had the time to come."""
        return max(0, self.acknowledged - self.stored)


@dataclass(frozen=True)
class Account:
    """Several devices together; the seconds are None as long as some are not drained."""

    link: str
    devices: int
    attempted: int
    refused: int
    acknowledged: int
    waiting: int
    stored: int
    lost: int
    duplicated: int
    reconnected: int
    drained_devices: int
    median_drain_seconds: float | None
    longest_drain_seconds: float | None


def account(link: str, tallies: Sequence[Tally]) -> Account:
    """Sum up devices under a name."""
    drained = sorted(tally.drained_seconds for tally in tallies if tally.drained_seconds is not None)
    whole = bool(drained) and len(drained) == len(tallies)
    return Account(
        link=link,
        devices=len(tallies),
        attempted=sum(tally.attempted for tally in tallies),
        refused=sum(tally.refused for tally in tallies),
        acknowledged=sum(tally.acknowledged for tally in tallies),
        waiting=sum(tally.waiting for tally in tallies),
        stored=sum(tally.stored for tally in tallies),
        lost=sum(tally.lost for tally in tallies),
        duplicated=sum(tally.duplicated for tally in tallies),
        reconnected=sum(tally.reconnected for tally in tallies),
        drained_devices=len(drained),
        median_drain_seconds=round(drained[len(drained) // 2], 2) if whole else None,
        longest_drain_seconds=round(drained[-1], 2) if whole else None,
    )


def accounts(tallies: Sequence[Tally]) -> list[Account]:
    """One account for each class of link that occurs, and one of all."""
    by_class = [(kind, [tally for tally in tallies if tally.link == kind]) for kind in CLASSES]
    found = [account(kind, some) for kind, some in by_class if some]
    return [*found, account("all", tallies)]
