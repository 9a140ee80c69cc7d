"""What a backup is on disk: a folder that appears whole, with the digest of every file in it.

backup.json            what it is, and every file with its size and sha256; its own digest is in it too
definitions.json       users, rights, limits, queues and bindings of the vhost, as RabbitMQ's management API takes them
storage/…              the worker's storage: samples, tombstones, versions, the newest checkpoint, contract, round
"""

import hashlib
import json
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from collafuse.backup.errors import BackupDamaged, BackupRefused
from server_worker.copying import Copied
from server_worker.storage import Storage

FORMAT = "collafuse-backup-v1"
MANIFEST_NAME = "backup.json"
DEFINITIONS_NAME = "definitions.json"
STORAGE_NAME = "storage"
READ_BYTES = 8 << 20
YEAR_10000_SECONDS = 253_402_300_800


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    began_at: unix seconds; all that was durable at this moment is in it.  vhost: None without definitions.
    storage: where it was copied from; None without it.  files: by their paths in the backup.
    """

    began_at: Annotated[float, Field(ge=0, lt=YEAR_10000_SECONDS, allow_inf_nan=False)]
    vhost: str | None
    storage: str | None
    files: tuple[Copied, ...]
    left_out: tuple[str, ...] = ()
    format: str = FORMAT

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(each.size_bytes for each in self.files)

    @property
    def stored(self) -> list[Copied]:
        """The files of the storage, by their paths in it."""
        prefix = f"{STORAGE_NAME}/"
        return [
            replace(each, path=each.path.removeprefix(prefix))
            for each in self.files
            if each.path.startswith(prefix)
        ]

    def to_bytes(self) -> bytes:
        """As it is written: a JSON object with its own digest."""
        fields = asdict(self)
        return (json.dumps({**fields, "digest": _digest(fields)}, indent=1, sort_keys=True) + "\n").encode()


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(backup: Path) -> Manifest:
    """Raises BackupDamaged unless this is a backup whose list of files is what was written."""
    path = backup / MANIFEST_NAME
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        digest = fields.pop("digest")
    except FileNotFoundError as error:
        raise BackupDamaged(
            f"{backup} is no backup, or one that was never finished: there is no {path.name}"
        ) from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BackupDamaged(f"{path} cannot be read ({error}): take another backup") from error
    if fields.get("format") != FORMAT:
        raise BackupDamaged(f"{path} is of format {fields.get('format')!r}, this version reads {FORMAT}")
    if digest != _digest(fields):
        raise BackupDamaged(f"{path} is not what was written: take another backup")
    try:
        manifest = _MANIFEST.validate_python(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise BackupDamaged(f"{path} does not say what a {FORMAT} says ({where}: {problem['msg']})") from None
    for each in manifest.files:
        if not _is_inside(each.path):
            raise BackupDamaged(f"{path} names {each.path}, which is not in it")
    return manifest


def check(backup: Path, on_file: Callable[[Copied], None] | None = None) -> Manifest:
    """Read every file of a backup and compare it with its digest. Raises BackupDamaged, which names the first that differs."""
    manifest = read_manifest(backup)
    for each in manifest.files:
        path = backup / each.path
        try:
            # A link, a pipe or a longer file is none of ours, and reading it might never end.
            about = path.lstat()
            ours = stat.S_ISREG(about.st_mode) and about.st_size == each.size_bytes
            found = sha256_of(path) if ours else None
        except OSError as error:
            raise BackupDamaged(f"{path} cannot be read ({error.strerror}): take another backup") from error
        if found != each.sha256:
            raise BackupDamaged(
                f"{path} is damaged: its size or digest is not the one that was written; take another backup"
            )
        if on_file is not None:
            on_file(each)
    return manifest


def read_definitions(backup: Path, manifest: Manifest) -> bytes:
    """The file of definitions, whose digest was compared in the very bytes that are returned. Raises BackupDamaged."""
    path = backup / DEFINITIONS_NAME
    listed = next((each for each in manifest.files if each.path == DEFINITIONS_NAME), None)
    if listed is None:
        raise BackupDamaged(f"{backup}/{MANIFEST_NAME} does not name {DEFINITIONS_NAME}: take another backup")
    try:
        with path.open("rb") as file:
            data = file.read(listed.size_bytes + 1)
    except OSError as error:
        raise BackupDamaged(f"{path} cannot be read ({error.strerror}): take another backup") from error
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise BackupDamaged(
            f"{path} is damaged: its digest is not the one that was written; take another backup"
        )
    return data


def check_outside(backup: Path, storage: Storage) -> None:
    """Raises BackupRefused for a backup within the storage: workers would take it for theirs, and it would perish with it."""
    if storage.local and backup.resolve().is_relative_to(storage.local_path("").resolve()):
        raise BackupRefused(f"{backup} lies in the storage {storage.url}: a backup's place is outside of it")


def sha256_of(path: Path) -> str:
    """Of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _is_inside(path: str) -> bool:
    """Whether a path names something below the folder that it counts from, and in one way alone."""
    return not {"", "..", "."} & set(path.split("/"))


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
