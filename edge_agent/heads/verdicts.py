"""What is settled of a head that was here before: for good when it was tried, for an hour when something else failed.

A verdict on a head is on its manifest, which names every byte that runs: the same head under another signature is the same head.
What went wrong on the way to its trial says nothing of it, and anybody who can write into the inbox can bring it about.
Nor is it the head's fault where this device has no memory for it, or not the provider that heads are to run on.
"""

import sqlite3

from edge_agent.clock import Moment
from edge_agent.heads import reasons, store
from edge_agent.heads.store import HeadRow
from export.errors import BundleRefused

DELIVERY_SECONDS = 3600.0
"""So long a delivery that failed is not begun again, nor a head tried that the device failed; a reboot ends it too."""
_IN_USE = frozenset({"staged", "trial", "live", "previous"})
_AGES_OUT = frozenset(
    {
        ("refused", reasons.DAMAGED),
        ("failed", reasons.MALFORMED),
        ("failed", reasons.NOT_AS_ANNOUNCED),
        ("failed", reasons.NOT_READ),
        ("failed", reasons.CHECK_KILLED),
        ("failed", reasons.PROVIDER_MISSING),
        ("rolled_back", reasons.PROVIDER_MISSING),
    }
)
_PASSING = frozenset({reasons.FILE_DAMAGED, reasons.FILE_MISSING, reasons.KEY_REVOKED, reasons.SUPERSEDED})
"""Why a head was given up with which nothing was wrong, so that it may come again at once."""


def is_settled(connection: sqlite3.Connection, row: HeadRow, manifest_digest: str, moment: Moment) -> bool:
    """Whether announcing the file of `row` again, by a manifest of this digest, changes nothing.

    Of heads that are not being received; `moment` is now.
    """
    if row.state in _IN_USE or _is_on_the_head(row):
        return True  # whatever is announced under its name now
    return row.manifest == manifest_digest and is_fresh(connection, row, moment)


def is_fresh(connection: sqlite3.Connection, row: HeadRow, moment: Moment) -> bool:
    """Whether this head came to an end that ages out, and the hour is not over; `moment` is now."""
    if (row.state, row.reason) not in _AGES_OUT:
        return False
    boot, seconds = connection.execute(
        "SELECT since_boot, since_seconds FROM heads WHERE bundle = ?", (row.bundle,)
    ).fetchone()
    return bool(boot == moment.boot and moment.seconds - seconds < DELIVERY_SECONDS)


def check_not_given_up(connection: sqlite3.Connection, manifest_digest: str) -> None:
    """Raise BundleRefused (`given_up_before`) when the head of this manifest was tried here, in whatever file, and given up."""
    for row in store.of_manifest(connection, manifest_digest):
        if _is_on_the_head(row):
            raise BundleRefused(
                reasons.GIVEN_UP_BEFORE,
                f"{row.title} was given up here as {row.bundle[:12]} ({row.reason}): export it again with a greater counter, or"
                " install it by hand",
            )


def _is_on_the_head(row: HeadRow) -> bool:
    """Whether the end of this row is a verdict on the head itself."""
    return (
        row.state in {"failed", "rolled_back"}
        and row.reason not in _PASSING
        and (row.state, row.reason) not in _AGES_OUT
    )
