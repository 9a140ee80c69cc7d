"""What the server asks of the clients: the last round heard of."""

import sqlite3
import time

from broker import codec
from broker.contract.rounds import RoundV1
from broker.errors import Refused
from edge_agent.storage.spool import Spool


def latest(spool: Spool) -> RoundV1 | None:
    """The newest round this device has heard of; None before the first, or when only a newer program wrote one."""
    row = spool.row("SELECT body FROM contract")
    if row is None:
        return None
    try:
        message = codec.decode(RoundV1.type_name, row[0])
    except Refused:
        return None  # written under another version of the contract; the next round replaces it
    return message if isinstance(message, RoundV1) else None


def is_closed(spool: Spool, message: RoundV1, now_unix: float) -> bool:
    """Whether a round takes no more releases, by this device's clock from its arrival on; a clock set back leaves it open."""
    if message.closes_in_seconds is None:
        return False
    row = spool.row("SELECT received_at FROM contract")
    return row is not None and now_unix - float(row[0]) > message.closes_in_seconds


def store(transaction: sqlite3.Connection, message: RoundV1) -> bool:
    """Keep a round unless a newer one is known already; rounds may arrive late and out of order."""
    changed = transaction.execute(
        "INSERT INTO contract (only, number, body, received_at) VALUES (1, ?, ?, ?)"
        " ON CONFLICT (only) DO UPDATE SET number = excluded.number, body = excluded.body,"
        " received_at = excluded.received_at WHERE excluded.number >= contract.number",
        (message.number, codec.encode(message), time.time()),
    )
    return changed.rowcount > 0
