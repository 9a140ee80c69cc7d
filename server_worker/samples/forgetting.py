"""Erasing all samples of a client, or of one of its devices, so that they stay away; and the receipt that says so."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog

from server_worker.errors import Damaged, Unreadable
from server_worker.samples.batch import StoredBatch
from server_worker.samples.leftovers import clear_quarantine, clear_unfinished
from server_worker.samples.rewriting import Shelf, listed, without
from server_worker.samples.segment import Segment
from server_worker.samples.tombstones import Found, Tombstone
from server_worker.storage import Storage, read_json

log = structlog.get_logger(__name__)

# As in `server_worker.versions`, which brings torch.
VERSIONS_FOLDER = "versions"
MANIFEST_NAME = "manifest.json"
SAMPLES_BY_CLIENT = "samples_by_client"
UNREADABLE_SUFFIX = ".unreadable"


@dataclass(frozen=True)
class Receipt:
    """What one forgetting erased.

    device: None for all of the client's. forgotten_at: unix seconds.
    size_bytes: of the tensors. ids_digest: sha256, in hex, of the erased message ids, sorted, each with a newline behind it.
    versions: numbers of the kept backbone versions that were trained while their samples were there.
    versions_by: "manifest" when each version says whose samples it was trained on, "time" when some were told by their age.
    quarantine_removed, quarantine_not_checked: damaged files that held theirs; files nobody can read, or unfinished.
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

    now: unix seconds. Raises StorageFull, and Damaged when another tombstone is none. What cannot be read at the moment is named
    in the receipt, and the forgetting stays open: it is tried again by whoever maintains the store.
    """
    begin_anew(storage, client, device)
    before = _tombstone(storage, client, device)
    tombstone = _saved(storage, replace(before, active=True, complete=False))
    tombstone, unreadable = _erase(storage, shelf, tombstone)

    def note(entries: Iterable[StoredBatch]) -> None:
        nonlocal tombstone
        tombstone = _saved(storage, _noted(tombstone, entries, []))

    removed, not_checked = clear_quarantine(storage, shelf, tombstone, note)
    not_checked += clear_unfinished(storage)
    if before.active and before.receipts and not tombstone.pending:
        receipt = receipt_of(before.receipts[-1])  # asked again, and nothing came since
    else:
        receipt = _receipt(storage, tombstone, now, removed, not_checked)
        tombstone = replace(tombstone, receipts=(*tombstone.receipts, asdict(receipt)))
    ids = tombstone.ids.union(tombstone.pending)
    done = _saved(storage, replace(tombstone, complete=True, ids=ids, pending={}, segments=frozenset()))
    if unreadable:
        replace(done, complete=False).write(storage)
    shelf.tombstones.reload()
    log.info("client_forgotten", client=client, device=device, batches=receipt.batches)
    return receipt


def begin_anew(storage: Storage, client: str, device: str | None) -> None:
    """Put a new tombstone where the sender's own is none any more; the old bytes stay beside it. Raises StorageFull.

    To be called before a store is opened: with such a tombstone none opens.
    """
    new = Tombstone(client, device)
    try:
        Tombstone.read(storage, new.path)
    except FileNotFoundError:
        return
    except Damaged as error:
        log.warning("tombstone_begun_anew", path=new.path, error=str(error))
        storage.write(f"{new.path}{UNREADABLE_SUFFIX}", storage.read(new.path))
        new.write(storage)


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


def _erase(storage: Storage, shelf: Shelf, tombstone: Tombstone) -> tuple[Tombstone, set[str]]:
    """Rewrite segments until none holds anything of theirs; each id is written down before its batch is erased.

    Returns the names of those that cannot be read at the moment too.
    """
    unreadable: set[str] = set()

    def covers(entry: StoredBatch) -> bool:
        return tombstone.covers(entry.client, entry.device)

    def found() -> list[Segment]:
        return [
            segment
            for segment in listed(shelf.segments)
            if segment.name not in unreadable and any(map(covers, segment.batches))
        ]

    while covered := found():
        readable = [segment for segment in covered if shelf.segments.can_read(segment)]
        unreadable.update(segment.name for segment in covered if segment not in readable)
        entries = [entry for segment in readable for entry in segment.batches]
        tombstone = _noted(tombstone, entries, {segment.name for segment in readable})
        tombstone = _saved(storage, tombstone)
        for segment in readable:
            try:
                without(shelf, segment, covers)
            except Unreadable:
                unreadable.add(segment.name)
    return tombstone, unreadable


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


def _versions_trained(storage: Storage, tombstone: Tombstone) -> tuple[tuple[int, ...], str]:
    """Which versions were trained while any of their samples was there, and how that is known."""
    first = min((found.stored_at for found in tombstone.pending.values()), default=None)
    told, guessed = [], []
    for name in storage.folders(VERSIONS_FOLDER):
        path = f"{VERSIONS_FOLDER}/{name}/{MANIFEST_NAME}"
        if not name.isdigit():
            continue
        try:
            by_client = read_json(storage, path).get(SAMPLES_BY_CLIENT)
            published = storage.modified(path)
        except (FileNotFoundError, Damaged):
            continue
        if not by_client:  # published without the samples' index: only its age tells
            guessed += [int(name)] if first is not None and published >= first else []
        elif tombstone.client in by_client:
            told.append(int(name))
    return tuple(sorted(told + guessed)), "time" if guessed else "manifest"
