"""What was vouched for, and by whom, of the heads that are here or on their way; kept so that they can be judged again."""

import sqlite3
from collections.abc import Callable

import structlog

from edge_agent.heads import store
from edge_agent.heads.reasons import KEY_REVOKED
from export.bundle.keyring import Keyring
from export.bundle.keys import Signatures
from export.errors import BundleError

log = structlog.get_logger(__name__)

_DETAIL = "the key that vouched for it is trusted no longer"


Proof = tuple[bytes, bytes]
"""A manifest and its signatures, byte for byte."""


def put(connection: sqlite3.Connection, bundle: str, manifest: bytes, signatures: bytes) -> None:
    """Keep the proof of a head; those of heads that are not here any more go."""
    connection.execute(
        "INSERT OR REPLACE INTO head_proofs (bundle, manifest, signatures) VALUES (?, ?, ?)",
        (bundle, manifest, signatures),
    )
    connection.execute(
        "DELETE FROM head_proofs WHERE bundle NOT IN (SELECT bundle FROM heads"
        " WHERE state IN ('receiving', 'staged', 'trial', 'live', 'previous'))"
    )


def get(connection: sqlite3.Connection, bundle: str) -> Proof | None:
    """What was kept of a head; None of one that needed no proof."""
    row = connection.execute(
        "SELECT manifest, signatures FROM head_proofs WHERE bundle = ?", (bundle,)
    ).fetchone()
    return None if row is None else (bytes(row[0]), bytes(row[1]))


def is_revoked(proof: Proof | None, ring: Keyring) -> bool:
    """Whether those who vouched for a head are not enough for `ring`; a head without a proof needed none."""
    if proof is None:
        return False
    try:
        ring.verify(proof[0], Signatures.from_bytes(proof[1]))
    except BundleError:
        return True
    return False


def drop_revoked(connection: sqlite3.Connection, ring: Keyring) -> None:
    """Give up the heads not yet believed whose keys `ring` does not trust; the live one works on."""
    drops: dict[store.State, Callable[[str], None]] = {
        "receiving": lambda _: store.drop_incoming(connection, KEY_REVOKED),
        "staged": lambda bundle: store.move(
            connection, bundle, "refused", reason=KEY_REVOKED, detail=_DETAIL
        ),
        "trial": lambda bundle: store.roll_back(connection, bundle, KEY_REVOKED, _DETAIL),
    }
    for state, drop in drops.items():
        row = store.in_state(connection, state)
        if row is not None and is_revoked(get(connection, row.bundle), ring):
            drop(row.bundle)
            log.warning("head_key_revoked", head=row.title, state=state)
