"""Restoring a backup: judged whole before anything is touched."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.definitions import of_vhost, other_passwords
from broker.errors import ManagementError
from broker.management import Management
from collafuse.backup import archive
from collafuse.backup.archive import DEFINITIONS_NAME, STORAGE_NAME, Manifest
from collafuse.backup.errors import BackupDamaged, BackupRefused
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
    """Bring a backup back, or raise before anything is changed.

    storage: where the workers will look, which nobody uses now; None to leave it.
    broker: its API and the vhost; None to leave it.
    force: overwrite, in the storage by moving what is there aside, on the broker the passwords of users of the same names.

    Raises BackupDamaged, BackupRefused, StorageUnusable, StorageFull, ManagementError.
    """
    manifest = archive.check(backup)
    if storage is not None:
        if manifest.storage is None:
            raise BackupRefused(f"{backup} holds no storage: give --without-storage to restore the rest")
        check_free(storage, force=force)
    users = queues = 0
    if broker is not None:
        definitions = _definitions(backup, manifest)
        _put_definitions(definitions, manifest, broker, force=force)
        users, queues = len(definitions["users"]), len(definitions["queues"])
    aside = None
    if storage is not None:
        aside = put_in_place(Storage(backup / STORAGE_NAME), manifest.stored_paths, storage)
    return Restored(manifest, users, queues, 0 if storage is None else len(manifest.stored_paths), aside)


def _definitions(backup: Path, manifest: Manifest) -> dict[str, Any]:
    """What is restored of the definitions: whatever their file says, nothing but the vhost's and no user with a tag."""
    if manifest.vhost is None:
        raise BackupRefused(f"{backup} holds no definitions: give --without-definitions to restore the rest")
    try:
        return of_vhost(json.loads((backup / DEFINITIONS_NAME).read_bytes()), manifest.vhost)
    except (OSError, ValueError, RecursionError, ManagementError) as error:
        raise BackupDamaged(f"{backup}/{DEFINITIONS_NAME} cannot be read: {error}") from error


def _put_definitions(
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
            f"{len(changed)} users exist on the broker with other passwords, such as {changed[0]}: give --force to bring back"
            " those of the backup, or --without-definitions to leave them"
        )
    management.put_definitions(definitions)
