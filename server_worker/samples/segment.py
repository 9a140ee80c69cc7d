"""A segment: one immutable safetensors file of one or more batches of the same kind.

    8 bytes length | header, JSON, padded to 64 bytes | t, scale | x, noise

The header says all that an index needs: who sent which batch, for which schedule and cut, with which labels and digest. A segment
is named after the digest of its header, and the header holds the digests of the payloads: the same batches have the same name,
and a file that is not what was written is recognised. The tensors stay in the dtype they came in.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from server_worker.errors import Damaged
from server_worker.local_files import Buffer
from server_worker.samples.batch import Array, Kind, Payload, StoredBatch

FORMAT = "collafuse-samples-v2"
SUFFIX = ".safetensors"
HEADER_LIMIT_BYTES = 100_000_000
"""What the safetensors library reads."""

_ALIGNMENT_BYTES = 64
_LENGTH_BYTES = 8
_DTYPES = {"F16": "float16", "F32": "float32", "I8": "int8", "I32": "int32"}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_FIELDS = (
    "client", "device", "labels", "message_id", "payload_digest", "release", "samples", "schedule_id", "stored_at", "t_cut",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Placed:
    """Where one tensor of all batches lies: `begin_bytes` counts from the start of the file, shape[0] is all samples."""

    dtype: str
    shape: tuple[int, ...]
    begin_bytes: int


@dataclass(frozen=True, eq=False)
class Segment:
    """What a header says.

    batches: in the order of their rows; starts: the first row of each, and the number of all rows behind the last.
    size_bytes: of the whole file.
    """

    name: str
    kind: Kind
    batches: tuple[StoredBatch, ...]
    starts: tuple[int, ...]
    tensors: Mapping[str, Placed]
    size_bytes: int

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(rows,): the label of every sample."""
        return np.array([label for batch in self.batches for label in batch.labels], np.int64)

    def arrays(self, data: Buffer) -> dict[str, Array]:
        """Every tensor of all batches, as views of the file's bytes."""
        return {
            name: np.frombuffer(
                data, placed.dtype, int(np.prod(placed.shape, dtype=np.int64)), placed.begin_bytes
            ).reshape(placed.shape)
            for name, placed in self.tensors.items()
        }

    def rows(self, arrays: Mapping[str, Array], index: int) -> dict[str, Array]:
        """The part of some arrays that is one batch's."""
        begin, end = self.starts[index], self.starts[index + 1]
        return {name: array[begin:end] for name, array in arrays.items()}


def encode(payloads: Sequence[Payload]) -> tuple[Segment, list[Buffer]]:
    """A segment of batches of one kind, in the order of their ids, and the bytes of its file in parts."""
    payloads = sorted(payloads, key=lambda payload: payload.entry.message_id)
    entries = [payload.entry for payload in payloads]
    kind = entries[0].kind
    rows = sum(entry.samples for entry in entries)
    first = payloads[0].arrays
    # Wide items first, so that every tensor begins at a multiple of its item's size.
    names = sorted(first, key=lambda name: (-first[name].itemsize, name))
    fields: dict[str, Any] = {"__metadata__": {"collafuse": _about(kind, entries)}}
    begin = 0
    for name in names:
        shape = (rows, *first[name].shape[1:])
        end = begin + int(np.prod(shape, dtype=np.int64)) * first[name].itemsize
        code = _CODES[str(first[name].dtype)]
        fields[name] = {"dtype": code, "shape": shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT_BYTES)
    header = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    data = [payload.arrays[name].data.cast("B") for name in names for payload in payloads]
    return decode(header, name_of(header)), [header, *data]


def name_of(header: bytes) -> str:
    """The name of the segment with this header, its length prefix included."""
    return hashlib.sha256(header).hexdigest()


def header_bytes(start: bytes) -> int:
    """How many bytes the header takes with its length prefix, from the first eight of a file. Raises Damaged."""
    if len(start) < _LENGTH_BYTES:
        raise Damaged(f"only {len(start)} bytes long")
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > HEADER_LIMIT_BYTES:
        raise Damaged(f"the header claims {length} bytes")
    return _LENGTH_BYTES + length


def decode(header: bytes, name: str) -> Segment:
    """What a header says. Raises Damaged when it is not the header that the segment's name stands for."""
    if name_of(header) != name:
        raise Damaged("the header does not belong to this file")
    try:
        fields = json.loads(header[_LENGTH_BYTES:])
        about = json.loads(fields.pop("__metadata__")["collafuse"])
        if about["format"] != FORMAT:
            raise Damaged(f"of format {about['format']}, this version reads {FORMAT}")
        tensors = {
            name: Placed(
                _DTYPES[field["dtype"]], tuple(field["shape"]), len(header) + field["data_offsets"][0]
            )
            for name, field in fields.items()
        }
        end = max(field["data_offsets"][1] for field in fields.values())
        x = tensors["x"]
        kind = Kind(x.dtype, x.shape[1:], about["policy"])
        sample_bytes = end // x.shape[0]
        batches = tuple(_entry(batch, kind, sample_bytes) for batch in about["batches"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"the header cannot be read ({type(error).__name__}: {error})") from error
    starts = tuple(accumulate((batch.samples for batch in batches), initial=0))
    return Segment(name, kind, batches, starts, tensors, len(header) + end)


def _about(kind: Kind, entries: Sequence[StoredBatch]) -> str:
    batches = [{field: getattr(entry, field) for field in _FIELDS} for entry in entries]
    return json.dumps(
        {"batches": batches, "format": FORMAT, "policy": kind.policy}, separators=(",", ":"), sort_keys=True
    )


def _entry(about: Mapping[str, Any], kind: Kind, sample_bytes: int) -> StoredBatch:
    return StoredBatch(
        message_id=about["message_id"],
        client=about["client"],
        device=about["device"],
        schedule_id=about["schedule_id"],
        t_cut=about["t_cut"],
        release=about["release"],
        samples=about["samples"],
        shape=kind.shape,
        dtype=kind.dtype,
        labels=tuple(about["labels"]),
        policy=kind.policy,
        payload_digest=about["payload_digest"],
        size_bytes=about["samples"] * sample_bytes,
        stored_at=about["stored_at"],
    )
