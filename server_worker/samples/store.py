"""The sample store: every released batch, durable, stored once however often it is delivered.

Append-only and readable by several processes: one file per message, named after the message's digest, so that a repeat is
recognised by its name and no process ever waits for another. The index lives in memory and is rebuilt from the files' headers.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from broker.messages import SamplesV1
from server_worker.errors import Damaged, StorageFull
from server_worker.samples.file import (
    FIRST_READ_BYTES,
    NO_LABEL,
    StoredBatch,
    Tensors,
    header_bytes,
    read_header,
    read_tensors,
    to_bytes,
)
from server_worker.storage import Storage

log = structlog.get_logger(__name__)

SAMPLES_FOLDER = "samples"
QUARANTINE_FOLDER = "quarantine"
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """Training samples drawn from the store.

    x: (B, C, H, W) float32; a release x_c, or x_t where the sample came as a pair.
    t_cut: (B,) int64.
    labels: (B,) int64, NO_LABEL where there is none.
    t: (B,) int64; 0 where t is to be drawn, else the pair's own.
    noise: (B, C, H, W) float32, the pair's own; zeros where it is to be drawn.
    """

    x: npt.NDArray[np.float32]
    t_cut: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    t: npt.NDArray[np.int64]
    noise: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Shelf:
    """One client's batches in the order of their ids, the first row drawn of each, and where each one's samples end."""

    entries: tuple[StoredBatch, ...]
    firsts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class SampleStore:
    """Released samples of all clients of one federation.

    storage: where the files are.
    cache_bytes: how much of the tensors is kept in memory.
    quarantine: move damaged files aside; without it they are only reported, as a mere reader should.
    held_out_share: this part of every batch, its last samples, is never drawn for training.

    Safe to use from several threads; other processes may append at any time (`refresh` sees what they added).
    """

    def __init__(
        self,
        storage: Storage,
        *,
        cache_bytes: int = 1 << 30,
        quarantine: bool = True,
        held_out_share: float = 0.0,
    ) -> None:
        self._storage = storage
        self._cache_bytes = cache_bytes
        self._moves_damaged = quarantine
        self._lock = threading.RLock()
        self._entries: dict[str, StoredBatch] = {}
        self._quarantined: dict[str, str] = {}
        self._held_out_share = held_out_share
        self._adopted: frozenset[str] | None = None
        self._shelves: dict[bool, dict[str, _Shelf]] = {}
        self._cache: OrderedDict[str, Tensors] = OrderedDict()
        self._cached_bytes = 0
        self._samples = 0
        self._bytes = 0
        self.refresh()

    @property
    def samples(self) -> int:
        """How many samples are stored."""
        return self._samples

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return self._bytes

    @property
    def quarantined(self) -> dict[str, str]:
        """Damaged files found by this process: message id to what is wrong with it."""
        with self._lock:
            return dict(self._quarantined)

    def entries(
        self,
        *,
        client: str | None = None,
        device: str | None = None,
        t_cut: int | None = None,
        label: int | None = None,
    ) -> list[StoredBatch]:
        """The batches that fit every given condition, in the order of their ids; a label fits when any sample has it."""
        with self._lock:
            found = sorted(self._entries.values(), key=lambda entry: entry.message_id)
        return [
            entry
            for entry in found
            if (client is None or entry.client == client)
            and (device is None or entry.device == device)
            and (t_cut is None or entry.t_cut == t_cut)
            and (label is None or label in entry.labels)
        ]

    def least_t_cut(self) -> int | None:
        """The smallest cut that any stored sample was released at; None in an empty store."""
        with self._lock:
            return min((entry.t_cut for entry in self._entries.values()), default=None)

    def add(self, message: SamplesV1, message_id: str, client: str, device: str) -> bool:
        """Store a batch durably. Returns False when it was stored before.

        Raises StorageFull when there is no room; then nothing of the batch is left behind.
        """
        with self._lock:
            if message_id in self._entries:
                return False
        path = _path(message_id)
        if self._storage.exists(path) and self._take_in(message_id, self._size_of(path)):
            return False
        data, entry = to_bytes(message, message_id, client, device)
        self._storage.write(path, data)
        self._insert(entry)
        return True

    def refresh(self) -> int:
        """Take in what other processes have added; returns how many batches were new."""
        new = 0
        for file in self._storage.files(SAMPLES_FOLDER):
            name = file.path.rsplit("/", 1)[-1]
            message_id = name.removesuffix(SUFFIX)
            if (
                name.endswith(SUFFIX)
                and message_id not in self._entries
                and message_id not in self._quarantined
            ):
                new += self._take_in(message_id, file.size_bytes)
        return new

    @property
    def held_out_samples(self) -> int:
        """How many samples are kept from training."""
        with self._lock:
            return sum(
                _held_out(entry, self._held_out_share)
                for entry in self._entries.values()
                if self._held_out_share
            )

    def snapshot(self) -> tuple[str, ...]:
        """The names of all that is known here, sorted, for another process to `adopt`."""
        with self._lock:
            return tuple(sorted(self._entries))

    def adopt(self, names: tuple[str, ...]) -> None:
        """From now on draw from exactly these. Raises Damaged when one of them cannot be read."""
        self.refresh()
        with self._lock:
            missing = [name for name in names if name not in self._entries]
            if missing:
                raise Damaged(f"sample batch {missing[0]} is not in the store {self._storage.url}")
            self._adopted = frozenset(names)
            self._shelves = {}

    def batch(
        self,
        rng: np.random.Generator,
        size: int,
        *,
        rows: slice = slice(None),
        held_out: bool = False,
    ) -> SampleBatch:
        """Draw `size` samples with replacement, every client with the same probability whatever it has stored.

        rows: which of those drawn are read and returned; held_out: draw from what is kept from training.
        Raises Damaged when nothing is left to draw from.
        """
        while True:
            shelves = self._shelved(held_out)
            if not shelves:
                raise Damaged(f"the sample store {self._storage.url} holds no samples to train on")
            picked = _pick(shelves, rng, size, rows)
            try:
                return self._gather(picked, len(range(size)[rows]))
            except Damaged as error:
                log.warning("sample_draw_repeated", error=str(error))

    def _gather(self, picked: dict[StoredBatch, list[tuple[int, int]]], size: int) -> SampleBatch:
        shape = next(iter(picked)).shape
        drawn = SampleBatch(
            x=np.empty((size, *shape), np.float32),
            t_cut=np.empty(size, np.int64),
            labels=np.full(size, NO_LABEL, np.int64),
            t=np.zeros(size, np.int64),
            noise=np.zeros((size, *shape), np.float32),
        )
        for entry, pairs in picked.items():
            tensors = self.tensors(entry)
            places, rows = np.array(pairs, np.int64).T
            drawn.x[places] = tensors.images(rows)
            drawn.t_cut[places] = entry.t_cut
            drawn.labels[places] = np.array(entry.labels, np.int64)[rows]
            if tensors.t is not None and tensors.noise is not None:
                drawn.t[places] = tensors.t[rows]
                drawn.noise[places] = tensors.noise[rows].astype(np.float32)
        return drawn

    def tensors(self, entry: StoredBatch) -> Tensors:
        """The arrays of one batch, from the cache or the file; one that cannot be read is set aside, and Damaged is raised."""
        with self._lock:
            cached = self._cache.get(entry.message_id)
            if cached is not None:
                self._cache.move_to_end(entry.message_id)
                return cached
        try:
            tensors = read_tensors(self._storage.read(_path(entry.message_id)), entry)
        except (Damaged, OSError) as error:
            self._quarantine(entry.message_id, str(error))
            raise Damaged(f"sample batch {entry.message_id}: {error}") from error
        with self._lock:
            self._cache[entry.message_id] = tensors
            self._cached_bytes += tensors.size_bytes
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].size_bytes
        return tensors

    def _take_in(self, message_id: str, size_bytes: int) -> bool:
        """Index one file by its header; a damaged one is set aside. Returns whether it is in the index now."""
        path = _path(message_id)
        try:
            start = self._storage.read_start(path, FIRST_READ_BYTES)
            needed = header_bytes(start)
            if needed > len(start):
                start = self._storage.read_start(path, needed)
            self._insert(read_header(start[:needed], size_bytes, message_id))
        except FileNotFoundError:
            return False
        except (Damaged, OSError) as error:
            self._quarantine(message_id, str(error))
            return False
        return True

    def _insert(self, entry: StoredBatch) -> None:
        with self._lock:
            if entry.message_id in self._entries:
                return
            self._entries[entry.message_id] = entry
            self._quarantined.pop(entry.message_id, None)
            self._samples += entry.samples
            self._bytes += entry.size_bytes
            self._shelves = {}

    def _quarantine(self, message_id: str, reason: str) -> None:
        with self._lock:
            self._quarantined[message_id] = reason
            entry = self._entries.pop(message_id, None)
            if entry is not None:
                self._samples -= entry.samples
                self._bytes -= entry.size_bytes
                self._shelves = {}
        log.error("sample_batch_damaged", batch_id=message_id, reason=reason)
        if not self._moves_damaged:
            return
        try:
            self._storage.move(_path(message_id), f"{QUARANTINE_FOLDER}/{message_id}{SUFFIX}")
        except (OSError, StorageFull) as error:
            log.warning("quarantine_failed", batch_id=message_id, error=str(error))

    def _size_of(self, path: str) -> int:
        folder = path.rsplit("/", 1)[0]
        return next((file.size_bytes for file in self._storage.files(folder) if file.path == path), 0)

    def _shelved(self, held_out: bool) -> dict[str, _Shelf]:
        with self._lock:
            if held_out not in self._shelves:
                by_client: dict[str, list[StoredBatch]] = {}
                # Sorted, so that what is drawn depends on what is stored and not on the order it came in.
                for entry in sorted(
                    self._entries.values(), key=lambda entry: (entry.client, entry.message_id)
                ):
                    if self._adopted is None or entry.message_id in self._adopted:
                        by_client.setdefault(entry.client, []).append(entry)
                shelves = {
                    client: _shelf(entries, self._held_out_share, held_out)
                    for client, entries in by_client.items()
                }
                self._shelves[held_out] = {
                    client: shelf for client, shelf in shelves.items() if shelf.ends[-1]
                }
            return self._shelves[held_out]


def _held_out(entry: StoredBatch, share: float) -> int:
    return int(entry.samples * share + int(entry.message_id[:8], 16) / 2**32)


def _shelf(entries: list[StoredBatch], share: float, held_out: bool) -> _Shelf:
    kept = np.array([_held_out(entry, share) if share else 0 for entry in entries])
    samples = np.array([entry.samples for entry in entries])
    counts = kept if held_out else samples - kept
    return _Shelf(tuple(entries), samples - kept if held_out else 0 * kept, np.cumsum(counts))


def _pick(
    shelves: dict[str, _Shelf], rng: np.random.Generator, size: int, rows: slice
) -> dict[StoredBatch, list[tuple[int, int]]]:
    """Which row of which batch goes to which place of the draw: batch to (place, row) pairs."""
    by_client = list(shelves.values())
    who = rng.integers(len(by_client), size=size)[rows]
    where = rng.random(size)[rows]
    picked: dict[StoredBatch, list[tuple[int, int]]] = {}
    for place in range(len(who)):
        shelf = by_client[who[place]]
        position = int(where[place] * shelf.ends[-1])
        index = int(np.searchsorted(shelf.ends, position, side="right"))
        entry = shelf.entries[index]
        row = position - (int(shelf.ends[index - 1]) if index else 0)
        picked.setdefault(entry, []).append((place, int(shelf.firsts[index]) + row))
    return picked


def _path(message_id: str) -> str:
    return f"{SAMPLES_FOLDER}/{message_id[:2]}/{message_id}{SUFFIX}"
