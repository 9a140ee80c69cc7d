"""A head on its way to this device: judged by its announcement, then kept piece by piece until it is whole.

One bundle is received at a time, of several the one with the greatest counter. The pieces stand in the spool, so that a lost link
and a reboot cost nothing that had arrived. Nothing that is wrong ends anything: it is refused with a reason, and reported.
"""

import hashlib
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.contract.heads import BundleV1, ChunkV1
from broker.contract.telemetry import MAX_MISSING_RANGES, UpdateReport, UpdateState
from edge_agent import clock
from edge_agent.heads import proofs, reasons, store, verdicts
from edge_agent.heads.judge import Judge
from edge_agent.heads.store import HeadRow
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.housekeeping import LEAST_FREE_BYTES
from edge_agent.storage.spool import Spool
from export.bundle.manifest import Manifest
from export.errors import BundleError, BundleRefused

log = structlog.get_logger(__name__)

UNREADABLE_NAME = "unreadable"
_REPORTED: dict[str, UpdateState] = {
    "receiving": "receiving",
    "staged": "staged",
    "trial": "trial",
    "live": "installed",
    "previous": "installed",
    "retired": "installed",
    "refused": "refused",
    "failed": "failed",
    "rolled_back": "rolled_back",
}


@dataclass(frozen=True)
class Incoming:
    """The bundle that is being received; `manifest` is what its announcement said, byte for byte."""

    bundle: str
    size_bytes: int
    chunk_bytes: int
    chunks: int
    manifest: bytes

    def chunk_length(self, position: int) -> int:
        """How many bytes a piece must have."""
        return min(self.chunk_bytes, self.size_bytes - position * self.chunk_bytes)


class Arrivals:
    """Takes announcements and pieces out of the inbox, each within the inbox's transaction.

    judge: whose heads are taken.
    directory: on the disk of the spool and of the heads' files.
    max_bytes: quota of what came and is not used yet, latents included.
    metered: the link costs by the byte: no head is taken, until it is announced again on a link that does not.
    """

    def __init__(self, judge: Judge, directory: Path, max_bytes: int, *, metered: bool = False) -> None:
        self._judge = judge
        self._directory = directory
        self._max_bytes = max_bytes
        self._metered = metered

    def announced(self, transaction: sqlite3.Connection, message: BundleV1) -> bool:
        """Judge an announcement; True when the bundle is being received from now on."""
        known = store.find(transaction, message.bundle)
        if known is not None and self._is_settled(transaction, known, message):
            store.touch(transaction, message.bundle)  # whoever announces it again wants to know how it stands
            return False
        manifest = None
        try:
            manifest = self._judge.verify(transaction, message.manifest, message.signatures, message.key_list)
            self._judge.admit(transaction, manifest)
            verdicts.check_not_given_up(transaction, _manifest_digest(message))
            self._check_turn(transaction, manifest, message)
        except BundleError as error:
            if known is not None and self._stays(transaction, known):
                # Else an announcement that nobody vouches for would end the hour of another, or what is on its way.
                store.touch(transaction, message.bundle)
                log.warning("head_refused", bundle=message.bundle, kept=known.reason, error=str(error))
                return False
            if known is not None and known.state == "receiving":
                store.drop_incoming(transaction, "metered")  # begun before the link was metered
            _refuse(transaction, message.bundle, manifest, error)
            return False
        store.drop_incoming(transaction, reasons.SUPERSEDED)
        _expect(transaction, message, manifest)
        proofs.put(transaction, message.bundle, message.manifest, message.signatures)
        log.info("head_announced", head=manifest.name, version=manifest.version, counter=manifest.counter)
        return True

    def chunk(self, transaction: sqlite3.Connection, message: ChunkV1) -> bool:
        """Keep a piece of the bundle that is being received; False for any other, which is dropped."""
        expected = incoming(transaction)
        if (
            expected is None
            or self._metered
            or expected.bundle != message.bundle
            or message.index >= expected.chunks
            or len(message.content) != expected.chunk_length(message.index)
        ):
            return False
        transaction.execute(
            "INSERT OR IGNORE INTO head_chunks (position, content) VALUES (?, ?)",
            (message.index, message.content),
        )
        return True

    def _is_settled(self, transaction: sqlite3.Connection, known: HeadRow, message: BundleV1) -> bool:
        """Whether announcing it again changes nothing; what is being received goes on when it is cut as before."""
        if known.state != "receiving":
            return verdicts.is_settled(transaction, known, _manifest_digest(message), clock.now())
        expected = incoming(transaction)
        return (
            not self._metered
            and expected is not None
            and (expected.size_bytes, expected.chunk_bytes) == (message.size_bytes, message.chunk_bytes)
        )

    def _stays(self, transaction: sqlite3.Connection, known: HeadRow) -> bool:
        """Whether what is known of a bundle is not touched by an announcement of it that is refused."""
        if known.state == "receiving":
            return not self._metered
        return verdicts.is_fresh(transaction, known, clock.now())

    def _check_turn(self, transaction: sqlite3.Connection, manifest: Manifest, message: BundleV1) -> None:
        """Raises BundleRefused when the link is metered, something newer is on its way, or there is no room."""
        if self._metered:
            raise BundleRefused(
                "metered",
                "the link costs by the byte: announce the head again when metered is off, or install it from a file",
            )
        current = store.in_state(transaction, "receiving")
        if current is not None and current.counter > manifest.counter:
            raise BundleRefused(reasons.SUPERSEDED, f"{current.title} is on its way already and is newer")
        # The pieces of the one before it go when this one is taken.
        taken_bytes = held_bytes(transaction, besides="head_chunks")
        if taken_bytes + message.size_bytes > self._max_bytes:
            raise BundleRefused(
                "no_room",
                f"{message.size_bytes} bytes would pass the quota of {self._max_bytes}, of which {taken_bytes} are taken;"
                " raise inbox_max_bytes",
            )
        self._check_disk(message.size_bytes, spare_bytes=held_bytes(transaction) - taken_bytes)

    def _check_disk(self, size_bytes: int, spare_bytes: int) -> None:
        """Raises BundleRefused when the disk would be full with the head: nothing else could be written down then.

        spare_bytes: of the spool, which the pieces may take.
        """
        # For a moment the pieces and the file made of them are there side by side.
        needed_bytes = 2 * size_bytes + LEAST_FREE_BYTES
        free_bytes = shutil.disk_usage(self._directory).free + spare_bytes
        if free_bytes < needed_bytes:
            raise BundleRefused(
                "no_room",
                f"a head of {size_bytes} bytes needs {needed_bytes} of the disk, of which {free_bytes} are free: free some"
                " space and have it announced again",
            )


def incoming(connection: sqlite3.Connection) -> Incoming | None:
    """What is being received."""
    row = connection.execute(
        "SELECT bundle, size_bytes, chunk_bytes, chunks, manifest FROM incoming_head"
    ).fetchone()
    return None if row is None else Incoming(*row)


def missing(connection: sqlite3.Connection, chunks: int, limit: int) -> list[tuple[int, int]]:
    """The first `limit` ranges (begin, end) of pieces that are not there; `chunks` is how many there are to be."""
    found: list[tuple[int, int]] = []
    expected = 0
    there = (row[0] for row in connection.execute("SELECT position FROM head_chunks ORDER BY position"))
    for position in (*there, chunks):
        if position > expected:
            found.append((expected, position))
        if len(found) == limit:
            break
        expected = position + 1
    return found


def report(spool: Spool) -> UpdateReport | None:
    """How it stands with the bundle that something happened to last."""
    with spool.transaction() as transaction:
        row = store.last_changed(transaction)
        expected = incoming(transaction)
        if row is None:
            return None
        ranges = (
            missing(transaction, expected.chunks, MAX_MISSING_RANGES)
            if expected is not None and row.state == "receiving"
            else []
        )
    return UpdateReport(
        bundle=row.bundle,
        state=_REPORTED[row.state],
        reason=row.reason,
        missing=tuple(edge for pair in ranges for edge in pair),
        attempts=row.attempts,
    )


def _manifest_digest(message: BundleV1) -> str:
    return hashlib.sha256(message.manifest).hexdigest()


def _refuse(
    transaction: sqlite3.Connection, bundle: str, manifest: Manifest | None, error: BundleError
) -> None:
    reason = error.reason if isinstance(error, BundleRefused) else reasons.MALFORMED
    store.put(
        transaction,
        bundle,
        name=manifest.name if manifest else UNREADABLE_NAME,
        version=manifest.version if manifest else "",
        counter=manifest.counter if manifest else 0,
        state="refused",
        reason=reason,
        detail=str(error),
    )
    log.warning("head_refused", bundle=bundle, reason=reason, error=str(error))


def _expect(transaction: sqlite3.Connection, message: BundleV1, manifest: Manifest) -> None:
    store.put(
        transaction,
        message.bundle,
        name=manifest.name,
        version=manifest.version,
        counter=manifest.counter,
        state="receiving",
        manifest=_manifest_digest(message),
    )
    transaction.execute(
        "INSERT INTO incoming_head (only, bundle, size_bytes, chunk_bytes, chunks, manifest) VALUES (1, ?, ?, ?, ?, ?)",
        (message.bundle, message.size_bytes, message.chunk_bytes, message.chunks, message.manifest),
    )
