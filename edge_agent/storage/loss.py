"""Whether the account of what was released is whole: a note that outlives the spool, for it stands in the journal too.

The account is incomplete when a spool was lost together with the journal, or with lines of it. Then nothing can be promised of
any image, and a device with a budget releases nothing until its operator has said that they know.
"""

import sqlite3
from dataclasses import dataclass
from typing import Final

from edge_agent.storage import counters
from edge_agent.storage.journal import Journal
from edge_agent.storage.spool import BEGAN_ANEW, Spool

_SINCE: Final = "ledger_incomplete_since"
_ACKNOWLEDGED: Final = "ledger_loss_acknowledged"


@dataclass(frozen=True)
class Loss:
    """since: when the last loss was noticed, in Unix seconds;  acknowledged: the one that the operator knows of; 0 for none."""

    since: int = 0
    acknowledged: int = 0

    @property
    def stands(self) -> bool:
        """Whether something was lost that nobody has acknowledged."""
        return self.since > self.acknowledged

    def joined(self, other: "Loss") -> "Loss":
        """What either of two records knows."""
        return Loss(max(self.since, other.since), max(self.acknowledged, other.acknowledged))

    def again(self, now: float) -> "Loss":
        """One more loss, which no earlier word of the operator is about."""
        return Loss(max(int(now), self.since + 1), self.acknowledged)


def known(source: Spool | sqlite3.Connection) -> Loss:
    """What the spool knows of losses."""
    ask = source.rows if isinstance(source, Spool) else source.execute
    found = {
        row[0]: int(row[1]) for row in ask("SELECT name, value FROM counters WHERE name LIKE 'ledger_%'")
    }
    return Loss(found.get(_SINCE, 0), found.get(_ACKNOWLEDGED, 0))


def began_anew(spool: Spool) -> bool:
    """Whether this spool took the place of another, and nobody has yet looked what the journal knows of that."""
    return spool.row("SELECT 1 FROM counters WHERE name = ?", (BEGAN_ANEW,)) is not None


def write(transaction: sqlite3.Connection, loss: Loss) -> None:
    """Write down what is known of losses, and that somebody has looked."""
    transaction.execute("DELETE FROM counters WHERE name = ?", (BEGAN_ANEW,))
    values: dict[counters.Name, int] = {_SINCE: loss.since, _ACKNOWLEDGED: loss.acknowledged}
    for name, value in values.items():
        if value:
            counters.put(transaction, name, value)


def acknowledge(spool: Spool) -> bool:
    """The operator knows that the account is incomplete; False when nothing was there to be known."""
    loss = known(spool)
    if not loss.stands:
        return False
    loss = Loss(loss.since, loss.since)
    Journal.of(spool).note(loss.since, loss.acknowledged)
    with spool.transaction() as transaction:
        write(transaction, loss)
    return True
