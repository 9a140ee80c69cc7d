"""Heads by the operator's hand, on the device itself: one is installed from a file, or the one in use is given up."""

import hashlib
import os
import sqlite3
from pathlib import Path

from edge_agent.errors import HeadError
from edge_agent.heads import arrivals, assembly, known_time, proofs, reasons, store
from edge_agent.heads.judge import Judge
from edge_agent.heads.store import HeadRow
from edge_agent.storage.spool import Spool
from export.bundle.bundle import Bundle, read_bundle
from export.errors import BundleError

_BLOCK_BYTES = 2**20


def install(
    spool: Spool,
    directory: Path,
    judge: Judge,
    path: Path,
    *,
    allow_older: bool,
    allow_expired: bool = False,
) -> HeadRow:
    """Stage the bundle at `path`; the agent checks it and takes it up as it does one that was delivered.

    directory: of the device's heads.
    allow_older: the operator's word that its counter does not matter.
    allow_expired: the operator's word that it has not expired, whatever time this device believes it is; that is forgotten.

    Raises HeadError when it must not be installed, or cannot be copied.
    """
    draft = directory / f".install.{os.getpid()}"
    try:
        bundle = read_bundle(path)
        digest = _copy(path, draft)
        with spool.transaction() as transaction:
            judge.verify_file(transaction, bundle, fresh=not allow_expired)
            _refuse_in_use(store.find(transaction, digest))
            judge.admit(transaction, bundle.manifest, allow_older=allow_older, fresh=not allow_expired)
            if allow_expired:
                known_time.forget(transaction)
            expected = arrivals.incoming(transaction)
            if expected is not None and expected.bundle == digest:
                store.drop_incoming(transaction, reasons.SUPERSEDED)
            assembly.place(draft, store.path_of(directory, digest))
            return _put_staged(transaction, digest, bundle, allow_older=allow_older)
    except BundleError as error:
        raise HeadError(str(error)) from error
    except OSError as error:
        raise HeadError(
            f"{path} cannot be copied into {directory}: {error.strerror}; free some space"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def roll_back(spool: Spool) -> HeadRow:
    """Give up the head on trial or, when there is none, the live one; returns which. The agent goes back to the one before it.

    Raises HeadError when neither was delivered or installed.
    """
    with spool.transaction() as transaction:
        row = store.in_state(transaction, "trial") or store.in_state(transaction, "live")
        if row is None:
            raise HeadError(
                "there is no delivered or installed head to go back from:"
                " the device runs the one in its settings, if there is one"
            )
        store.roll_back(transaction, row.bundle, "operator", "the operator went back on this device")
    return row


def adopt(spool: Spool, directory: Path, judge: Judge) -> None:
    """Take in the files of heads of which a new spool knows nothing: the newest is checked anew, the next is its reserve.

    Only what this device would still take; to be called before anything removes the files.
    """
    if store.all_of(spool):
        return
    found: list[tuple[int, str, Bundle]] = []
    for path in directory.glob("*.bundle"):
        try:
            bundle = read_bundle(path)
            with spool.transaction() as transaction:
                judge.verify_file(transaction, bundle)
                judge.admit(transaction, bundle.manifest)
        except BundleError:
            continue
        found.append((bundle.manifest.counter, path.stem, bundle))
    found.sort(key=lambda one: one[0], reverse=True)
    states: tuple[store.State, ...] = ("staged", "previous")
    for state, (_, digest, bundle) in zip(states, found, strict=False):
        with spool.transaction() as transaction:
            _put(transaction, digest, bundle, state=state, allow_older=False)


def _copy(path: Path, draft: Path) -> str:
    """Copy a file to the disk itself; returns the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with path.open("rb") as source, draft.open("wb") as sink:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()


def _refuse_in_use(row: HeadRow | None) -> None:
    if row is not None and row.state in {"staged", "trial", "live"}:
        raise HeadError(f"{row.title} is installed already (state: {row.state})")


def _put_staged(
    transaction: sqlite3.Connection, digest: str, bundle: Bundle, *, allow_older: bool
) -> HeadRow:
    store.displace(transaction, "staged", "refused", reasons.SUPERSEDED)
    _put(transaction, digest, bundle, state="staged", allow_older=allow_older)
    store.forget_other_files(transaction, digest)  # the operator's word goes before what was found here
    row = store.find(transaction, digest)
    assert row is not None
    return row


def _put(
    transaction: sqlite3.Connection, digest: str, bundle: Bundle, *, state: store.State, allow_older: bool
) -> None:
    manifest = bundle.manifest
    store.put(
        transaction,
        digest,
        name=manifest.name,
        version=manifest.version,
        counter=manifest.counter,
        state=state,
        manifest=bundle.manifest_digest,
        allow_older=allow_older,
    )
    proofs.put(transaction, digest, bundle.manifest_bytes, bundle.signatures.to_bytes())
