"""Restoring a backup: judged whole before anything is touched."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.definitions import of_vhost, other_passwords, steps
from broker.errors import ManagementError
from broker.inspection.finding import number
from broker.management import Management
from collafuse.backup import archive
from collafuse.backup.archive import DEFINITIONS_NAME, STORAGE_NAME, Manifest
from collafuse.backup.errors import BackupDamaged, BackupRefused, HalfRestored
from server_worker.restoring import check_free, put_in_place
from server_worker.storage import Storage


@dataclass(frozen=True)
class Restored:
    """What a restore did.  users: made or given back their passwords.  aside: the folder with what was there before, or None."""

    manifest: Manifest
    users: int
    queues: int
    files: int
    aside: str | None


def restore(
    backup: Path, storage: Storage | None, broker: tuple[Management, str] | None, *, force: bool
) -> Restored:
    """Bring a backup back, or raise before anything is changed: the storage first, and what lets devices in last.

    storage: where the workers will look, which nobody uses now; None to leave it.
    broker: its API and the vhost; None to leave it.
    force: overwrite, in the storage by moving what is there aside, on the broker the passwords of users of the same names.

    Raises BackupDamaged, Damaged, BackupRefused, StorageUnusable, StorageFull, ManagementError; HalfRestored when the broker
    fails after the storage was put in place.
    """
    manifest = archive.check(backup)
    definitions = None if broker is None else _definitions(backup, manifest)
    if broker is not None and definitions is not None:
        _check_definitions(definitions, manifest, broker, force=force)
    aside = None if storage is None else _put_storage(backup, manifest, storage, force=force)
    users = queues = 0
    if broker is not None and definitions is not None:
        _put_definitions(definitions, broker[0], storage)
        users, queues = len(definitions["users"]), len(definitions["queues"])
    return Restored(manifest, users, queues, 0 if storage is None else len(manifest.stored), aside)


def _put_storage(backup: Path, manifest: Manifest, storage: Storage, *, force: bool) -> str | None:
    """Returns the name of the folder with what was there before, or None."""
    if manifest.storage is None:
        raise BackupRefused(f"{backup} holds no storage: give --without-storage to restore the rest")
    archive.check_outside(backup, storage)
    check_free(storage, force=force)
    return put_in_place(Storage(backup / STORAGE_NAME), manifest.stored, storage)


def _definitions(backup: Path, manifest: Manifest) -> dict[str, Any]:
    """What is restored of the definitions: whatever their file says, nothing but the vhost's and no user with a tag."""
    if manifest.vhost is None:
        raise BackupRefused(f"{backup} holds no definitions: give --without-definitions to restore the rest")
    data = archive.read_definitions(backup, manifest)
    try:
        return of_vhost(json.loads(data), manifest.vhost)
    except (ValueError, RecursionError, ManagementError) as error:
        raise BackupDamaged(f"{backup}/{DEFINITIONS_NAME} cannot be read: {error}") from error


def _check_definitions(
    definitions: dict[str, Any], manifest: Manifest, broker: tuple[Management, str], *, force: bool
) -> None:
    management, vhost = broker
    if manifest.vhost != vhost:
        raise BackupRefused(
            f"the backup is of the virtual host {manifest.vhost!r}, --url names {vhost!r}: name the same in the URL"
        )
    changed = other_passwords(definitions, management.users_in_full())
    if changed and not force:
        raise BackupRefused(
            f"the broker has other passwords for {number(len(changed), 'user')}, such as {changed[0]}: give --force to bring"
            " back those of the backup, or --without-definitions to leave them"
        )


def _put_definitions(definitions: dict[str, Any], management: Management, storage: Storage | None) -> None:
    """The definitions step by step; storage: which is in place already, if any."""
    try:
        for step in steps(definitions):
            management.put_definitions(step)
    except ManagementError as error:
        if storage is None:
            raise
        raise HalfRestored(
            f"the storage {storage.url} is restored, the broker's definitions in part at most ({error}): mend that, then"
            " restore again with --without-storage"
        ) from error
