"""From pieces in the spool to a file: streamed, compared with its SHA-256, and staged in one step."""

import hashlib
import os
from pathlib import Path

import structlog

from edge_agent.heads import arrivals, reasons, store
from edge_agent.heads.arrivals import Incoming
from edge_agent.heads.judge import Judge
from edge_agent.storage.spool import Spool
from export.errors import BundleError, BundleRefused
from export.files import flush_directory

log = structlog.get_logger(__name__)

MAX_ATTEMPTS = 3
"""A bundle that was whole so often, and never what had been announced, is refused for a while."""
_DRAFT = ".incoming"


def assemble(spool: Spool, directory: Path, judge: Judge) -> bool:
    """Make a file of a bundle that is whole, and stage it; False when there is none.

    A file that is not what was announced is dropped with all its pieces, which the sender may send again; after three times the
    bundle is refused for a while. What was announced is judged again before it is staged: keys and time have gone on.

    Raises OSError when the file cannot be written, SpoolError when the spool cannot.
    """
    with spool.transaction() as transaction:
        expected = arrivals.incoming(transaction)
        if expected is None or arrivals.missing(transaction, expected.chunks, 1):
            return False
    draft = directory / _DRAFT
    try:
        found = _write(spool, expected, draft)
        if found == expected.bundle:
            _stage(spool, expected, draft, directory, judge)
        else:
            _give_up(spool, expected)
    finally:
        draft.unlink(missing_ok=True)
    spool.give_back_disk()
    store.remove_unneeded(spool, directory)
    return True


def place(draft: Path, path: Path) -> None:
    """Move a file that is on the disk to its name, and see that the name is too."""
    draft.replace(path)
    flush_directory(path.parent)


def _write(spool: Spool, expected: Incoming, draft: Path) -> str:
    """Write the pieces one after the other; returns the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with draft.open("wb") as file:
        for position in range(expected.chunks):
            row = spool.row("SELECT content FROM head_chunks WHERE position = ?", (position,))
            content = b"" if row is None else bytes(row[0])
            digest.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _stage(spool: Spool, expected: Incoming, draft: Path, directory: Path, judge: Judge) -> None:
    with spool.transaction() as transaction:
        try:
            judge.reconsider(transaction, expected.bundle)
        except BundleError as error:
            reason = error.reason if isinstance(error, BundleRefused) else reasons.MALFORMED
            store.drop_incoming(transaction, reason)
            store.touch(transaction, expected.bundle)
            log.warning("head_refused", bundle=expected.bundle, reason=reason, error=str(error))
            return
        place(draft, store.path_of(directory, expected.bundle))
        store.stage(transaction, expected.bundle)
        transaction.execute("DELETE FROM incoming_head")
        transaction.execute("DELETE FROM head_chunks")
    log.info("head_staged", bundle=expected.bundle)


def _give_up(spool: Spool, expected: Incoming) -> None:
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM head_chunks")
        transaction.execute("UPDATE heads SET attempts = attempts + 1 WHERE bundle = ?", (expected.bundle,))
        store.touch(transaction, expected.bundle)
        row = store.find(transaction, expected.bundle)
        attempts = row.attempts if row else MAX_ATTEMPTS
        if attempts >= MAX_ATTEMPTS:
            store.drop_incoming(transaction, reasons.DAMAGED)
    log.warning("head_damaged", bundle=expected.bundle, attempts=attempts)
