"""One sample batch as one safetensors file.

The header says everything that an index needs: who sent it, for which schedule and cut, and the label of each sample. Opening
a store reads headers only. The tensors stay in the dtype they came in: noise does not compress, the dtype is the lever.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from broker.messages import SamplesV1
from server_worker.errors import Damaged

FORMAT = "collafuse-samples-v1"
NO_LABEL = -1
# A header of an ordinary batch fits; a longer one costs a second read.
FIRST_READ_BYTES = 8192
HEADER_LIMIT_BYTES = 1 << 20

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StoredBatch:
    """The index entry of one stored batch.

    message_id: digest of the message it came in; the name of its file.
    client, device: who sent it, as the broker vouched.
    labels: one per sample, NO_LABEL where there is none.
    policy: "release" (x is x_c) or "pairs" (x is x_t, with t and noise).
    size_bytes: of the whole file.
    payload_digest: sha256 of the tensors' bytes, in hex.
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

    @property
    def size_bytes(self) -> int:
        """Memory taken."""
        return sum(array.nbytes for array in (self.x, self.scale, self.t, self.noise) if array is not None)

    def images(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Some samples as numbers: (len(rows), C, H, W) float32."""
        x = self.x[rows].astype(np.float32)
        if self.scale is not None:
            x *= (self.scale[rows] / np.float32(127)).reshape(-1, 1, 1, 1)
        return x


def to_bytes(message: SamplesV1, message_id: str, client: str, device: str) -> tuple[bytes, StoredBatch]:
    """The file of one batch, and its index entry."""
    arrays: dict[str, Array] = {"x": message.x}
    for name in ("scale", "t", "noise"):
        array = getattr(message, name)
        if array is not None:
            arrays[name] = array
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    count = int(message.x.shape[0])
    labels = [NO_LABEL] * count if message.labels is None else [int(label) for label in message.labels]
    about: dict[str, Any] = {
        "client": client,
        "device": device,
        "format": FORMAT,
        "labels": labels,
        "message_id": message_id,
        "payload_digest": _payload_digest(arrays),
        "policy": "release" if message.t is None else "pairs",
        "release": message.release,
        "schedule_id": message.schedule_id,
        "t_cut": message.t_cut,
    }
    data = save_tensors(arrays, {"collafuse": json.dumps(about)})
    return data, _entry(about, str(message.x.dtype), tuple(message.x.shape), len(data))


def header_bytes(start: bytes) -> int:
    """How many bytes the header takes with its length prefix, from the first eight of a file. Raises Damaged."""
    if len(start) < 8:
        raise Damaged(f"only {len(start)} bytes long")
    length = int.from_bytes(start[:8], "little")
    if length > HEADER_LIMIT_BYTES:
        raise Damaged(f"the header claims {length} bytes")
    return 8 + length


def read_header(header: bytes, size_bytes: int, message_id: str) -> StoredBatch:
    """The index entry from a file's header, without its tensors.

    Raises Damaged when the header does not parse, the file's size is not what the header says, or it is another batch's.
    """
    try:
        fields = json.loads(header[8:])
        about = json.loads(fields["__metadata__"]["collafuse"])
        end = max(tensor["data_offsets"][1] for name, tensor in fields.items() if name != "__metadata__")
        dtype = {"F16": "float16", "F32": "float32", "I8": "int8"}[fields["x"]["dtype"]]
        shape = tuple(int(size) for size in fields["x"]["shape"])
        entry = _entry(about, dtype, shape, size_bytes)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the header cannot be read ({type(error).__name__}: {error})") from error
    if len(header) + end != size_bytes:
        raise Damaged(f"{size_bytes} bytes long, the header says {len(header) + end}")
    if about.get("format") != FORMAT or entry.message_id != message_id or len(entry.labels) != entry.samples:
        raise Damaged("the header does not belong to this file")
    return entry


def read_tensors(data: bytes, entry: StoredBatch) -> Tensors:
    """The arrays of a file. Raises Damaged when they are not those that were written."""
    try:
        arrays = load_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise Damaged(f"the tensors cannot be read ({error})") from error
    if "x" not in arrays or _payload_digest(arrays) != entry.payload_digest:
        raise Damaged("the tensors' digest is wrong")
    return Tensors(arrays["x"], arrays.get("scale"), arrays.get("t"), arrays.get("noise"))


def _payload_digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _entry(about: dict[str, Any], dtype: str, shape: tuple[int, ...], size_bytes: int) -> StoredBatch:
    return StoredBatch(
        message_id=str(about["message_id"]),
        client=str(about["client"]),
        device=str(about["device"]),
        schedule_id=str(about["schedule_id"]),
        t_cut=int(about["t_cut"]),
        release=int(about["release"]),
        samples=shape[0],
        shape=shape[1:],
        dtype=dtype,
        labels=tuple(int(label) for label in about["labels"]),
        policy=str(about["policy"]),
        payload_digest=str(about["payload_digest"]),
        size_bytes=size_bytes,
    )
