"""Erasing all samples of a client, or of one of its devices, so that they stay away; and the receipt that says so."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from server_worker.errors import Damaged, Vanished
from server_worker.samples.batch import StoredBatch
from server_worker.samples.rewriting import Shelf, listed, without
from server_worker.samples.segment import SUFFIX
from server_worker.samples.segments import QUARANTINE_FOLDER, SEGMENTS_FOLDER
from server_worker.samples.tombstones import Found, Tombstone
from server_worker.storage import Storage, read_json

log = structlog.get_logger(__name__)

# As in `server_worker.versions`, which brings torch.
VERSIONS_FOLDER = "versions"
MANIFEST_NAME = "manifest.json"
SAMPLES_BY_CLIENT = "samples_by_client"


@dataclass(frozen=True)
class Receipt:
    """What one forgetting erased.

    device: None for all of the client's. forgotten_at: unix seconds.
    size_bytes: of the tensors. ids_digest: sha256, in hex, of the erased message ids, sorted, each with a newline behind it.
    versions: numbers of the kept backbone versions that were trained while their samples were there.
    versions_by: "manifest" when each version says whose samples it was trained on, "time" when some were told by their age.
    quarantine_removed, quarantine_not_checked: damaged files that held theirs, and that nobody can read.
    """

    client: str
    device: str | None
    forgotten_at: float
    batches: int
    samples: int
    size_bytes: int
    ids_digest: str
    segments_rewritten: int
    versions: tuple[int, ...]
    versions_by: str
    quarantine_removed: tuple[str, ...]
    quarantine_not_checked: tuple[str, ...]


def forget(storage: Storage, shelf: Shelf, client: str, device: str | None, now: float) -> Receipt:
    """Erase a sender's samples and take no more of them. Finishes what a killed run began.

    now: unix seconds. Raises StorageFull, and Damaged when the tombstone there cannot be read.
    """
    before = _tombstone(storage, client, device)
    tombstone = _saved(storage, replace(before, active=True, complete=False))
    tombstone = _erase(storage, shelf, tombstone)
    tombstone, removed, not_checked = _clear_quarantine(storage, shelf, tombstone)
    if before.active and before.receipts and not tombstone.pending:
        receipt = receipt_of(before.receipts[-1])  # asked again, and nothing came since
    else:
        receipt = _receipt(storage, tombstone, now, removed, not_checked)
        tombstone = replace(tombstone, receipts=(*tombstone.receipts, asdict(receipt)))
    ids = tombstone.ids.union(tombstone.pending)
    _saved(storage, replace(tombstone, complete=True, ids=ids, pending={}, segments=frozenset()))
    shelf.tombstones.reload()
    log.info("client_forgotten", client=client, device=device, batches=receipt.batches)
    return receipt


def receipt_of(fields: Mapping[str, Any]) -> Receipt:
    """A receipt as it was kept, its lists read back."""
    read: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Receipt(**read)


def lift(storage: Storage, client: str, device: str | None) -> Tombstone | None:
    """Let a sender contribute again; what was erased stays refused. None when it was not forgotten. Raises StorageFull."""
    tombstone = _tombstone(storage, client, device)
    if not storage.exists(tombstone.path) or not tombstone.active:
        return None
    lifted = replace(tombstone, active=False)
    lifted.write(storage)
    log.info("client_let_in_again", client=client, device=device)
    return lifted


def digest_of(message_ids: Iterable[str]) -> str:
    """sha256, in hex, of message ids: sorted, each with a newline behind it."""
    return hashlib.sha256("".join(f"{each}\n" for each in sorted(message_ids)).encode()).hexdigest()


def _tombstone(storage: Storage, client: str, device: str | None) -> Tombstone:
    new = Tombstone(client, device)
    try:
        return Tombstone.read(storage, new.path)
    except FileNotFoundError:
        return new


def _receipt(
    storage: Storage, tombstone: Tombstone, now: float, removed: tuple[str, ...], not_checked: tuple[str, ...]
) -> Receipt:
    found = tombstone.pending.values()
    versions, versions_by = _versions_trained(storage, tombstone)
    return Receipt(
        client=tombstone.client,
        device=tombstone.device,
        forgotten_at=now,
        batches=len(found),
        samples=sum(each.samples for each in found),
        size_bytes=sum(each.size_bytes for each in found),
        ids_digest=digest_of(tombstone.pending),
        segments_rewritten=len(tombstone.segments),
        versions=versions,
        versions_by=versions_by,
        quarantine_removed=removed,
        quarantine_not_checked=not_checked,
    )


def _saved(storage: Storage, tombstone: Tombstone) -> Tombstone:
    """Write it with whatever another process, which forgets the same sender, has added since; returns what was written."""
    other = _tombstone(storage, tombstone.client, tombstone.device)
    erased = tombstone.ids | other.ids
    merged = replace(
        tombstone,
        ids=erased.union(other.pending) if tombstone.complete else erased,
        pending={} if tombstone.complete else {**other.pending, **tombstone.pending},
        receipts=(
            *(each for each in other.receipts if each not in tombstone.receipts),
            *tombstone.receipts,
        ),
    )
    merged.write(storage)
    return merged


def _erase(storage: Storage, shelf: Shelf, tombstone: Tombstone) -> Tombstone:
    """Rewrite segments until none holds anything of theirs; each id is written down before its batch is erased."""

    def covers(entry: StoredBatch) -> bool:
        return tombstone.covers(entry.client, entry.device)

    while covered := [segment for segment in listed(shelf.segments) if any(map(covers, segment.batches))]:
        entries = [entry for segment in covered for entry in segment.batches]
        tombstone = _noted(tombstone, entries, {segment.name for segment in covered})
        tombstone = _saved(storage, tombstone)
        for segment in covered:
            without(shelf, segment, covers)
    return tombstone


def _noted(tombstone: Tombstone, entries: Iterable[StoredBatch], segments: Iterable[str]) -> Tombstone:
    found = {
        entry.message_id: Found(entry.samples, entry.size_bytes, entry.stored_at)
        for entry in entries
        if tombstone.covers(entry.client, entry.device)
    }
    return replace(
        tombstone,
        pending={**tombstone.pending, **found},
        segments=tombstone.segments.union(segments),
    )


def _clear_quarantine(
    storage: Storage, shelf: Shelf, tombstone: Tombstone
) -> tuple[Tombstone, tuple[str, ...], tuple[str, ...]]:
    """Remove damaged files that hold theirs: whatever of others was good in them was rescued when they were set aside.

    Damaged files that still lie among the segments are reported as not checked too.
    """
    removed, not_checked = [], []
    for folder in (QUARANTINE_FOLDER, SEGMENTS_FOLDER):
        for file in sorted(storage.names(folder)):
            path = f"{folder}/{file}"
            try:
                segment = shelf.segments.read_header(file.removesuffix(SUFFIX), folder)
            except Vanished:
                continue
            except Damaged:
                not_checked.append(path)
                continue
            theirs = [entry for entry in segment.batches if tombstone.covers(entry.client, entry.device)]
            if theirs and folder == QUARANTINE_FOLDER:
                tombstone = _noted(tombstone, theirs, [])
                tombstone = _saved(storage, tombstone)
                storage.remove([path])
                removed.append(path)
    return tombstone, tuple(removed), tuple(not_checked)


def _versions_trained(storage: Storage, tombstone: Tombstone) -> tuple[tuple[int, ...], str]:
    """Which versions were trained while any of their samples was there, and how that is known."""
    first = min((found.stored_at for found in tombstone.pending.values()), default=None)
    told, guessed = [], []
    for name in storage.folders(VERSIONS_FOLDER):
        path = f"{VERSIONS_FOLDER}/{name}/{MANIFEST_NAME}"
        if not name.isdigit() or first is None:
            continue
        try:
            by_client = read_json(storage, path).get(SAMPLES_BY_CLIENT)
            published = storage.modified(path)
        except (FileNotFoundError, Damaged):
            continue
        if not by_client:  # published without the samples' index: only its age tells
            guessed += [int(name)] if published >= first else []
        elif tombstone.client in by_client:
            told.append(int(name))
    return tuple(sorted(told + guessed)), "time" if guessed else "manifest"
