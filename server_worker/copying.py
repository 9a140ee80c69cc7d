"""A consistent copy of a storage that workers go on writing to: nothing is locked, and nobody waits.

What was durable when the copy began is in it. Segments are immutable, and one that goes has a successor that was there before it
went; so they are listed again until nothing has gone between two listings. Tombstones are copied after the segments: what is
forgotten while the copy is made stays forgotten where it is restored. A version's folder and a checkpoint's appear whole.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from server_worker.errors import StorageUnusable
from server_worker.samples.contract import CONTRACT_PATH
from server_worker.samples.segments import SEGMENTS_FOLDER
from server_worker.samples.tombstones import EXPIRED_FOLDER, FORGOTTEN_FOLDER
from server_worker.storage import Storage

log = structlog.get_logger(__name__)

VERSIONS_FOLDER = "versions"  # their modules bring torch
VERSION_FILES = ("weights.safetensors", "manifest.json", "weights_digest")
CHECKPOINTS_FOLDER = "checkpoints"
CHECKPOINT_FILES = ("tensors.safetensors", "state.json", "digest")
"""The file of tensors, the file that describes it, and the field in which it names its sha256."""

POINTERS = (f"{VERSIONS_FOLDER}/LATEST", f"{VERSIONS_FOLDER}/BEST")
ROUND_PATH = "round.json"
ATTEMPTS = 20
"""So often in a row a folder may go while it is copied; each time there is a newer one."""


@dataclass(frozen=True)
class Copied:
    """One file of a copy, by its path below the storage's root."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Copy:
    """What a copy holds.

    files: in the order of their paths.  left_out: folders that are damaged already, and are not in it.
    """

    files: tuple[Copied, ...]
    left_out: tuple[str, ...]


def copy_of(storage: Storage, target: Storage, on_file: Callable[[Copied], None] | None = None) -> Copy:
    """Copy a storage while others write to it. target: empty.  on_file: told of each file.

    Raises StorageUnusable when something cannot be read, StorageFull when the target has no room.
    """
    return _Copying(storage, target, on_file or (lambda _: None)).run()


class _Copying:
    def __init__(self, storage: Storage, target: Storage, on_file: Callable[[Copied], None]) -> None:
        self._storage = storage
        self._target = target
        self._on_file = on_file
        self._copied: dict[str, Copied] = {}
        self._left_out: set[str] = set()

    def run(self) -> Copy:
        try:
            self._copy_settled(SEGMENTS_FOLDER)
            for folder in (FORGOTTEN_FOLDER, EXPIRED_FOLDER):
                self._copy_settled(folder)
            self._copy_versions()
            self._copy_checkpoint()
            self._copy_names(path for path in (CONTRACT_PATH, ROUND_PATH) if self._storage.exists(path))
        except OSError as error:
            raise StorageUnusable(f"{self._storage.url} cannot be read: {error}") from error
        files = tuple(self._copied[path] for path in sorted(self._copied))
        return Copy(files, tuple(sorted(self._left_out)))

    def _copy_settled(self, folder: str) -> None:
        """Every file right in a folder, listed until nothing has gone since the listing before.

        One listing may miss both a file that goes and its successor that comes while it is made, two in a row do not.
        """
        before = set(self._storage.names(folder))
        while True:
            self._copy_names(f"{folder}/{name}" for name in before)
            names = set(self._storage.names(folder))
            self._copy_names(f"{folder}/{name}" for name in names)
            if before <= names:
                return
            before = names

    def _copy_names(self, paths: Iterable[str]) -> None:
        for path in sorted(set(paths) - self._copied.keys()):
            try:
                data = self._storage.read(path)
            except FileNotFoundError:
                continue  # merged or erased: the next listing shows what has taken its place
            self._put(path, data)

    def _copy_versions(self) -> None:
        """All versions, and names that lead to one of them."""
        for _ in range(ATTEMPTS):
            numbers = [name for name in self._storage.folders(VERSIONS_FOLDER) if name.isdigit()]
            there = {
                int(name) for name in numbers if self._copy_folder(f"{VERSIONS_FOLDER}/{name}", VERSION_FILES)
            }
            named = {path: self._storage.read(path) for path in POINTERS if self._storage.exists(path)}
            if all(int(data) in there for data in named.values() if data.strip().isdigit()):
                for path, data in named.items():
                    self._put(path, data)
                return
        self._left_out.update(named)
        log.warning("version_names_left_out", names=sorted(named))

    def _copy_checkpoint(self) -> None:
        """The newest checkpoint that is whole, which is what a trainer goes on from."""
        for _ in range(ATTEMPTS):
            steps = sorted(name for name in self._storage.folders(CHECKPOINTS_FOLDER) if name.isdigit())
            for step in reversed(steps):
                if self._copy_folder(f"{CHECKPOINTS_FOLDER}/{step}", CHECKPOINT_FILES):
                    return
            if not steps:
                return

    def _copy_folder(self, folder: str, files: tuple[str, str, str]) -> bool:
        """A folder of two files of which one names the other's digest; False when it goes meanwhile, or is damaged."""
        tensors_path, about_path = (f"{folder}/{name}" for name in files[:2])
        if tensors_path in self._copied:
            return True
        try:
            tensors, about = self._storage.read(tensors_path), self._storage.read(about_path)
        except FileNotFoundError:
            return False
        if _named_digest(about, files[2]) != hashlib.sha256(tensors).hexdigest():
            if folder not in self._left_out:
                log.warning("damaged_folder_left_out", folder=folder)
            self._left_out.add(folder)
            return False
        self._put(tensors_path, tensors)
        self._put(about_path, about)
        return True

    def _put(self, path: str, data: bytes) -> None:
        self._target.write(path, data)
        self._copied[path] = Copied(path, len(data), hashlib.sha256(data).hexdigest())
        self._on_file(self._copied[path])


def _named_digest(about: bytes, field: str) -> str | None:
    try:
        found = json.loads(about)[field]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found)
