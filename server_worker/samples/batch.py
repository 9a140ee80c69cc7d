"""One sample batch: what one message brought, and what the index remembers of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from broker.contract.samples import SamplesV1

NO_LABEL = -1

Array = npt.NDArray[Any]


class Outcome(StrEnum):
    """What became of a batch that was to be stored."""

    STORED = "stored"
    """It is durable."""

    REPEATED = "repeated"
    """It was stored before, or was and has been erased for its age."""

    FORGOTTEN = "forgotten"
    """Its sender, or the batch itself, was asked to be forgotten: nothing of it was kept."""

    OVER_QUOTA = "over_quota"
    """Its client has no more room: nothing of it was kept."""

    NO_ROOM = "no_room"
    """The store has no more room: nothing of it was kept, it is to be brought again later."""


@dataclass(frozen=True, eq=False)
class Incoming:
    """A batch to be stored: its message, the digest of the message, and who sent it as the broker vouched."""

    message: SamplesV1
    message_id: str
    client: str
    device: str

    @property
    def size_bytes(self) -> int:
        """The size of its tensors."""
        return sum(array.nbytes for array in arrays_of(self.message).values())


class Kind(NamedTuple):
    """What all samples of one segment have in common.

    dtype: of x. shape: (C, H, W). policy: "release" (x is x_c) or "pairs" (x is x_t, with t and noise).
    """

    dtype: str
    shape: tuple[int, ...]
    policy: str


@dataclass(frozen=True)
class StoredBatch:
    """The index entry of one stored batch.

    message_id: digest of the message it came in.
    client, device: who sent it, as the broker vouched.
    labels: one per sample, NO_LABEL where there is none.
    policy: "release" (x is x_c) or "pairs" (x is x_t, with t and noise).
    payload_digest: sha256 of the tensors' bytes, in hex.
    size_bytes: of the tensors.
    stored_at: unix seconds by the clock of the server that stored it.
    """

    message_id: str
    client: str
    device: str
    schedule_id: str
    t_cut: int
    release: int
    samples: int
    shape: tuple[int, ...]
    dtype: str
    labels: tuple[int, ...]
    policy: str
    payload_digest: str
    size_bytes: int
    stored_at: float

    @property
    def kind(self) -> Kind:
        """What it must share with its neighbours in a segment."""
        return Kind(self.dtype, self.shape, self.policy)


@dataclass(frozen=True, eq=False)
class Tensors:
    """The arrays of one batch as stored.

    x: (N, C, H, W) float16, float32 or int8; scale: (N,) float32 for int8, value = x·scale/127.
    t: (N,) int32 and noise: (N, C, H, W) for the policy `pairs`, else None.
    """

    x: Array
    scale: Array | None
    t: Array | None
    noise: Array | None


@dataclass(frozen=True, eq=False)
class Payload:
    """A batch with its arrays, by name: what a segment is written from."""

    entry: StoredBatch
    arrays: Mapping[str, Array]

    @property
    def is_sound(self) -> bool:
        """Whether the arrays are what was written; reads all of them."""
        return payload_digest(self.arrays) == self.entry.payload_digest


def arrays_of(message: SamplesV1) -> dict[str, Array]:
    """The arrays of a message that are stored, by name."""
    given = {name: getattr(message, name) for name in ("x", "scale", "t", "noise")}
    return {name: np.ascontiguousarray(array) for name, array in given.items() if array is not None}


def payload_of(incoming: Incoming, stored_at: float) -> Payload:
    """What is written of a batch, its digest computed. stored_at: unix seconds."""
    message, arrays = incoming.message, arrays_of(incoming.message)
    count = int(message.x.shape[0])
    entry = StoredBatch(
        message_id=incoming.message_id,
        client=incoming.client,
        device=incoming.device,
        schedule_id=message.schedule_id,
        t_cut=message.t_cut,
        release=message.release,
        samples=count,
        shape=tuple(message.x.shape[1:]),
        dtype=str(message.x.dtype),
        labels=(NO_LABEL,) * count if message.labels is None else tuple(message.labels.tolist()),
        policy="release" if message.t is None else "pairs",
        payload_digest=payload_digest(arrays),
        size_bytes=sum(array.nbytes for array in arrays.values()),
        stored_at=stored_at,
    )
    return Payload(entry, arrays)


def payload_digest(arrays: Mapping[str, Array]) -> str:
    """sha256, in hex, of a batch's arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()
