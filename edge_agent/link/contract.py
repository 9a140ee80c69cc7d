"""What the server asks of the clients: the last round heard of."""

import sqlite3
import time

from broker import codec
from broker.contract.rounds import RoundV1
from broker.errors import Refused
from edge_agent import clock
from edge_agent.clock import Moment, elapsed_seconds
from edge_agent.storage import notes
from edge_agent.storage.spool import Spool

_AGE = "round_age"
_CARRY_SECONDS = 600.0


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


def is_closed(spool: Spool, message: RoundV1, moment: Moment) -> bool:
    """Whether a round takes no more releases, by the seconds that have surely passed since it came; no clock is asked."""
    if message.closes_in_seconds is None:
        return False
    age_seconds = _age_seconds(spool, moment)
    return age_seconds is not None and age_seconds > message.closes_in_seconds


def carry_age(spool: Spool, moment: Moment) -> None:
    """Write down how old the round is, so that a reboot cannot make it much younger; seldom, since each note costs a write."""
    noted = _noted(spool)
    if noted is None:
        return
    age_seconds = elapsed_seconds(*noted, moment)
    if moment.boot == noted[1].boot and age_seconds - noted[0] < _CARRY_SECONDS:
        return
    with spool.transaction() as transaction:
        _note(transaction, age_seconds, moment)


def _age_seconds(spool: Spool, moment: Moment) -> float | None:
    """Seconds since the round came; None where that was not noted, as by an older program: the next announcement does."""
    noted = _noted(spool)
    return None if noted is None else elapsed_seconds(*noted, moment)


def _noted(spool: Spool) -> tuple[float, Moment] | None:
    """How old the round was, and when that was."""
    try:
        carried_seconds, boot, seconds = notes.read(spool, _AGE)
        return float(carried_seconds), Moment(str(boot), float(seconds))
    except (ValueError, TypeError):
        return None


def _note(transaction: sqlite3.Connection, age_seconds: float, moment: Moment) -> None:
    notes.write(transaction, _AGE, [age_seconds, moment.boot, moment.seconds])


def store(transaction: sqlite3.Connection, message: RoundV1, moment: Moment | None = None) -> bool:
    """Keep a round unless a newer one is known already; rounds may arrive late and out of order.

    moment: when it came; now, when left out.
    """
    changed = transaction.execute(
        "INSERT INTO contract (only, number, body, received_at) VALUES (1, ?, ?, ?)"
        " ON CONFLICT (only) DO UPDATE SET number = excluded.number, body = excluded.body,"
        " received_at = excluded.received_at WHERE excluded.number >= contract.number",
        (message.number, codec.encode(message), time.time()),
    )
    if changed.rowcount > 0:
        _note(transaction, 0.0, moment or clock.now())
    return changed.rowcount > 0
