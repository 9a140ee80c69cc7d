"""Making a backup while everything runs."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from broker.definitions import of_vhost
from broker.management import Management
from collafuse.backup.archive import DEFINITIONS_NAME, MANIFEST_NAME, STORAGE_NAME, Manifest, check_outside
from collafuse.backup.errors import BackupRefused
from server_worker import local_files
from server_worker.copying import Copied, copy_of
from server_worker.errors import StorageUnusable
from server_worker.restoring import check_not_half_restored
from server_worker.storage import Storage, full_as_error

OnFile = Callable[[Copied], None]


def make(
    out: Path, storage: Storage | None, broker: tuple[Management, str] | None, on_file: OnFile | None = None
) -> Manifest:
    """Write a backup; it is there whole when this returns, and not at all when this fails.

    out: the folder it becomes; must not exist.  storage: of the workers; None to leave it out.  broker: its API, and the vhost;
    None to leave the definitions out.

    Raises BackupRefused, ManagementError, StorageUnusable, StorageFull.
    """
    if out.exists():
        raise BackupRefused(f"{out} exists already: name another folder")
    if storage is not None:
        check_outside(out, storage)
        check_not_half_restored(storage)
        if not storage.exists(""):
            raise StorageUnusable(f"there is no storage at {storage.url}: check --storage")
    staged = out.absolute().parent / local_files.temporary_name()
    try:
        with full_as_error(str(out)):
            staged.mkdir(mode=0o700, parents=True)  # the definitions hold the hashes of passwords
            manifest = _fill(staged, storage, broker, on_file)
            staged.rename(out)
            local_files.sync_directory(out.absolute().parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return manifest


def _fill(
    staged: Path, storage: Storage | None, broker: tuple[Management, str] | None, on_file: OnFile | None
) -> Manifest:
    began_at = time.time()
    target = Storage(staged)
    files: list[Copied] = []
    left_out: tuple[str, ...] = ()
    if broker is not None:
        management, vhost = broker
        data = json.dumps(of_vhost(management.definitions(), vhost), indent=1, sort_keys=True).encode()
        target.write(DEFINITIONS_NAME, data)
        files.append(Copied(DEFINITIONS_NAME, len(data), hashlib.sha256(data).hexdigest()))
    if storage is not None:
        copy = copy_of(storage, Storage(staged / STORAGE_NAME), on_file)
        left_out = copy.left_out
        files += [Copied(f"{STORAGE_NAME}/{each.path}", each.size_bytes, each.sha256) for each in copy.files]
    manifest = Manifest(
        began_at=began_at,
        vhost=None if broker is None else broker[1],
        storage=None if storage is None else storage.url,
        files=tuple(files),
        left_out=left_out,
    )
    target.write(MANIFEST_NAME, manifest.to_bytes())
    return manifest
