"""What must not be stored (again): senders that were forgotten, and batches that were erased for their age.

    forgotten/clinic.json, forgotten/clinic_scanner-1.json        a client, or one of its devices
    expired/<digest>.json                                         ids of batches, erased by retention

A tombstone is written before anything is erased. Whoever writes a segment reads the tombstones before and again afterwards, so of
an erasure and a write at the same time at least one sees the other.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from server_worker.errors import Damaged
from server_worker.samples.segments import reading
from server_worker.storage import Storage, json_bytes, read_json

FORMAT = "collafuse-tombstone-v1"
FORGOTTEN_FOLDER = "forgotten"
EXPIRED_FOLDER = "expired"
SUFFIX = ".json"
EXPIRED_FILES = 32
"""With more of them than this they are made one."""

Why = Literal["forgotten", "expired"]


@dataclass(frozen=True)
class Found:
    """What is remembered of a batch between finding it and having erased it."""

    samples: int
    size_bytes: int
    stored_at: float


@dataclass(frozen=True)
class Tombstone:
    """A client, or one device of it, that asked to be forgotten.

    device: None for all devices of the client.
    active: nothing of theirs is taken; False once lifted.
    complete: everything that was there is erased.
    ids: of the batches erased before, which are never stored again; pending: those being erased now, by id.
    segments: those rewritten for it so far. receipts: what was told of each time, the newest last.
    """

    client: str
    device: str | None
    active: bool = True
    complete: bool = False
    ids: frozenset[str] = frozenset()
    pending: Mapping[str, Found] = field(default_factory=dict)
    segments: frozenset[str] = frozenset()
    receipts: tuple[Mapping[str, Any], ...] = ()

    @property
    def path(self) -> str:
        """Where it is kept."""
        name = self.client if self.device is None else f"{self.client}_{self.device}"
        return f"{FORGOTTEN_FOLDER}/{name}{SUFFIX}"

    def covers(self, client: str, device: str) -> bool:
        """Whether this sender is meant, and nothing of it is taken."""
        return self.active and client == self.client and self.device in (None, device)

    def write(self, storage: Storage) -> None:
        """Make it durable. Raises StorageFull."""
        fields = {
            "format": FORMAT,
            "client": self.client,
            "device": self.device,
            "active": self.active,
            "complete": self.complete,
            "ids": sorted(self.ids),
            "pending": {
                message_id: [found.samples, found.size_bytes, found.stored_at]
                for message_id, found in self.pending.items()
            },
            "segments": sorted(self.segments),
            "receipts": list(self.receipts),
        }
        storage.write(self.path, json_bytes(fields))

    @classmethod
    def read(cls, storage: Storage, path: str) -> Self:
        """Raises FileNotFoundError, or Damaged when it is not one."""
        try:
            fields = read_json(storage, path)
            return cls(
                client=fields["client"],
                device=fields["device"],
                active=fields["active"],
                complete=fields["complete"],
                ids=frozenset(fields["ids"]),
                pending={message_id: Found(*found) for message_id, found in fields["pending"].items()},
                segments=frozenset(fields["segments"]),
                receipts=tuple(fields["receipts"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, Damaged) as error:
            raise Damaged(
                f"{storage.url}/{path} says who was forgotten, and is no {FORMAT} any more ({error}). Nothing is stored until "
                "it is restored from a copy, or until its sender, after whom it is named, is forgotten again: collafuse forget"
            ) from error


class Tombstones:
    """All tombstones and erased ids of a storage, as last read; not safe to use from several threads.

    readings: how often anything in them was new.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.readings = 0
        self._states: dict[str, str] = {}
        self._tombstones: dict[str, Tombstone] = {}
        self._expired: set[str] = set()  # only grows, like what it stands for
        self._senders: dict[tuple[str, str | None], Tombstone] = {}
        self._erased: set[str] = set()
        self.reload()

    @property
    def forgotten(self) -> list[Tombstone]:
        """Every tombstone, lifted ones too, in the order of their paths."""
        return [tombstone for _, tombstone in sorted(self._tombstones.items())]

    @property
    def expired(self) -> int:
        """How many batches were erased for their age."""
        return len(self._expired)

    def reload(self) -> bool:
        """Read what was written since; returns whether anything was. Raises Damaged for what is no tombstone, Unreadable."""
        with reading(FORGOTTEN_FOLDER, FORGOTTEN_FOLDER):
            return self._reload()

    def _reload(self) -> bool:
        states = self._listed()
        if states == self._states:
            return False
        while not all(self._read(path) for path, state in states.items() if self._states.get(path) != state):
            states = self._listed()  # some were made one since the listing
        for path in self._tombstones.keys() - states.keys():
            del self._tombstones[path]
        self._states = states
        self.readings += 1
        self._senders = {
            (each.client, each.device): each for each in self._tombstones.values() if each.active
        }
        ids = [each.ids.union(each.pending) for each in self._tombstones.values()]
        self._erased = self._expired.union(*ids)
        return True

    def refusal(self, message_id: str, client: str, device: str) -> Why | None:
        """Why a batch of this sender must not be stored; None when it may be."""
        if (client, None) in self._senders or (client, device) in self._senders:
            return "forgotten"
        if message_id not in self._erased:
            return None
        return "expired" if message_id in self._expired else "forgotten"

    def add_expired(self, message_ids: Iterable[str]) -> None:
        """Remember durably that these batches are not to be stored again. Raises StorageFull."""
        if ids := frozenset(message_ids):
            self._write_expired(ids)
            self.reload()

    def merge_expired(self) -> None:
        """Make one file of many: the new one is there before the old ones go. Raises StorageFull."""
        self.reload()
        old = {path for path in self._states if path.startswith(EXPIRED_FOLDER)}
        if len(old) > EXPIRED_FILES:
            written = self._write_expired(self._expired)
            self._storage.remove(old - {written})
            self.reload()

    def _listed(self) -> dict[str, str]:
        return {
            f"{folder}/{name}": state
            for folder in (FORGOTTEN_FOLDER, EXPIRED_FOLDER)
            for name, state in self._storage.states(folder).items()
            if name.endswith(SUFFIX)
        }

    def _write_expired(self, ids: Iterable[str]) -> str:
        listed = sorted(ids)
        digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
        path = f"{EXPIRED_FOLDER}/{digest}{SUFFIX}"
        self._storage.write(path, json_bytes({"format": FORMAT, "ids": listed}))
        return path

    def _read(self, path: str) -> bool:
        """Take one file in; returns False when it is gone."""
        try:
            if path.startswith(EXPIRED_FOLDER):
                self._expired.update(read_json(self._storage, path)["ids"])
            else:
                self._tombstones[path] = Tombstone.read(self._storage, path)
        except FileNotFoundError:
            return False
        except (KeyError, TypeError) as error:
            raise Damaged(f"{self._storage.url}/{path} holds no ids: restore it from a copy") from error
        return True
