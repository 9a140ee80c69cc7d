"""A head bundle: one file with the network, its schedule, and a manifest that vouches for both.

Reading needs neither torch nor onnxruntime, so that a device can judge a bundle before anything of it runs.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule
from export.archive import pack, unpack
from export.errors import BundleError
from export.files import replace_file
from export.manifest import Manifest

MANIFEST = "manifest.json"
ONNX = "head.onnx"
SCHEDULE = "schedule.npy"
MAX_BUNDLE_BYTES = 512 * 2**20
MAX_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose every byte was checked.

    Attributes:
        manifest: what the head is.
        onnx: the serialised network; inputs x (B, C, H, W) float32, t (B,) int64 and, if `manifest.num_classes`,
            label (B,) int64; output eps (B, C, H, W) float32.
        schedule: rebuilt from the bundle's own ᾱ table, its id equal to the manifest's.
    """

    manifest: Manifest
    onnx: bytes
    schedule: NoiseSchedule

    @property
    def alpha_bar(self) -> NDArray[np.float64]:
        """ᾱ, float64 (T+1,)."""
        return self.schedule.alpha_bar


def member_digests(onnx: bytes, schedule: NoiseSchedule) -> dict[str, str]:
    """SHA-256 (hex) of every member the manifest vouches for."""
    return {ONNX: _sha256(onnx), SCHEDULE: _sha256(_table_to_bytes(schedule))}


def write_bundle(path: Path, manifest: Manifest, onnx: bytes, schedule: NoiseSchedule) -> None:
    """Write the bundle to `path`, whole or not at all; the same input gives the same bytes.

    Raises:
        BundleError: the manifest does not vouch for this network and schedule, or `path` cannot be written.
    """
    if manifest.digests != member_digests(onnx, schedule) or manifest.schedule_id != schedule.schedule_id:
        raise BundleError(f"the manifest of {manifest.name} is about another network; make it from this one")
    table = _table_to_bytes(schedule)
    archive = pack([(MANIFEST, manifest.to_bytes()), (ONNX, onnx), (SCHEDULE, table)])
    try:
        replace_file(path, archive)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; choose a writable place") from error


def read_bundle(path: Path) -> Bundle:
    """Read and check a bundle; nothing of it has run when this returns.

    Raises:
        BundleError: unreadable, too large, or different in any byte from what `write_bundle` wrote.
    """
    try:
        return parse_bundle(_read_limited(path))
    except BundleError as error:
        raise BundleError(f"{path} is not a usable bundle: {error}; fetch or export it again") from error


def parse_bundle(archive: bytes) -> Bundle:
    """The bundle in `archive`, every digest checked and the schedule's id recomputed from its table.

    Raises:
        BundleError: what is wrong, without the file's name.
    """
    manifest_view, onnx_view, table_view = unpack(archive, (MANIFEST, ONNX, SCHEDULE))
    if len(manifest_view) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} has {len(manifest_view)} bytes, over {MAX_MANIFEST_BYTES}")
    manifest = Manifest.from_bytes(bytes(manifest_view))
    onnx, table = bytes(onnx_view), bytes(table_view)
    found = {ONNX: _sha256(onnx), SCHEDULE: _sha256(table)}
    for name in sorted(found | manifest.digests):
        if manifest.digests.get(name) != found.get(name):
            raise BundleError(f"{name} is not what the manifest vouches for (its SHA-256 differs)")
    return Bundle(manifest, onnx, _schedule_of(manifest, table))


def _schedule_of(manifest: Manifest, table: bytes) -> NoiseSchedule:
    alpha_bar = _table_from_bytes(table, manifest.schedule_T)
    try:
        schedule = NoiseSchedule(manifest.schedule_name, alpha_bar)
    except DiffusionError as error:
        raise BundleError(f"{SCHEDULE} is not a noise schedule: {error}") from error
    if schedule.schedule_id != manifest.schedule_id:
        raise BundleError(
            f"{SCHEDULE} is schedule {schedule.schedule_id}, the manifest says {manifest.schedule_id}"
        )
    return schedule


def _table_to_bytes(schedule: NoiseSchedule) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, schedule.alpha_bar.astype("<f8"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _table_from_bytes(content: bytes, steps: int) -> NDArray[np.float64]:
    # The header is judged before numpy allocates what it asks for.
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise BundleError(f"{SCHEDULE} is of another npy version than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise BundleError(f"{SCHEDULE} is not a numpy array") from error
    values = content[file.tell() :]
    if shape != (steps + 1,) or dtype != np.dtype("<f8") or len(values) != 8 * (steps + 1):
        raise BundleError(f"{SCHEDULE} holds {dtype} {shape}, not float64 ({steps + 1},)")
    return np.frombuffer(values, "<f8").astype(np.float64)


def _read_limited(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells a large file apart without reading all of it.
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise BundleError(f"it cannot be read ({error.strerror})") from error
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
