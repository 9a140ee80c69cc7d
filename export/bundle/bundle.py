"""A head bundle: one file with the network, its schedule, its probe, and a signed manifest that vouches for them.

Reading needs neither torch nor onnxruntime, so that a device can judge a bundle before anything of it runs.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from broker.contract.heads import (
    MAX_BUNDLE_BYTES,
    MAX_KEY_LIST_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURES_BYTES,
)
from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule
from export.bundle.archive import pack, unpack
from export.bundle.golden import GOLDEN_MEMBERS, Golden, array_from_bytes, array_to_bytes
from export.bundle.keys import NO_KEY_LIST, UNSIGNED, KeyHistory, Signatures
from export.bundle.manifest import OLD_FORMAT, Manifest
from export.errors import BundleError
from export.files import replace_file

MANIFEST = "manifest.json"
SIGNATURES = "signatures.json"
KEYS = "keys.json"
ONNX = "head.onnx"
SCHEDULE = "schedule.npy"
VOUCHED_MEMBERS = (ONNX, SCHEDULE, *GOLDEN_MEMBERS)
MEMBERS = (MANIFEST, SIGNATURES, KEYS, *VOUCHED_MEMBERS)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose every byte was checked. Whom its signatures convince is for a `Keyring` to say.

    Attributes:
        manifest: what the head is.
        onnx: the serialised network; inputs x (B, C, H, W) float32, t (B,) int64 and, if `manifest.num_classes`,
            label (B,) int64; output eps (B, C, H, W) float32.
        schedule: rebuilt from the bundle's own ᾱ table, its id equal to the manifest's.
        golden: inputs and torch's answers, to compare with before the head is used.
        signatures: over `manifest_bytes`; there may be none.
        key_list: the signed key lists that lead to the keys in force; there may be none.
    """

    manifest: Manifest
    onnx: bytes
    schedule: NoiseSchedule
    golden: Golden
    signatures: Signatures = UNSIGNED
    key_list: KeyHistory = NO_KEY_LIST

    @property
    def alpha_bar(self) -> NDArray[np.float64]:
        """ᾱ, float64 (T+1,)."""
        return self.schedule.alpha_bar

    @property
    def manifest_bytes(self) -> bytes:
        """What the signatures are over."""
        return self.manifest.to_bytes()

    @property
    def manifest_digest(self) -> str:
        """SHA-256 of it in hex: which head this is, whoever has signed it."""
        return _sha256(self.manifest_bytes)


def member_digests(onnx: bytes, schedule: NoiseSchedule, golden: Golden) -> dict[str, str]:
    """SHA-256 (hex) of every member the manifest vouches for."""
    members = {ONNX: onnx, SCHEDULE: _table_to_bytes(schedule), **golden.members()}
    return {name: _sha256(content) for name, content in members.items()}


def pack_bundle(bundle: Bundle) -> bytes:
    """The file; the same bundle gives the same bytes.

    Raises:
        BundleError: the manifest does not vouch for this network, schedule and probe, or a member is too large.
    """
    manifest, schedule = bundle.manifest, bundle.schedule
    digests = member_digests(bundle.onnx, schedule, bundle.golden)
    if manifest.digests != digests or manifest.schedule_id != schedule.schedule_id:
        raise BundleError(f"the manifest of {manifest.name} is about another network; make it from this one")
    contents = {
        MANIFEST: bundle.manifest_bytes,
        SIGNATURES: bundle.signatures.to_bytes(),
        KEYS: bundle.key_list.to_bytes(),
        ONNX: bundle.onnx,
        SCHEDULE: _table_to_bytes(schedule),
        **bundle.golden.members(),
    }
    return pack([(name, contents[name]) for name in MEMBERS])


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write the bundle to `path`, whole or not at all.

    Raises:
        BundleError: as `pack_bundle`, or `path` cannot be written.
    """
    archive = pack_bundle(bundle)
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
        return parse_bundle(read_archive(path))
    except BundleError as error:
        raise BundleError(f"{path} is not a usable bundle: {error}; fetch or export it again") from error


def read_archive(path: Path) -> bytes:
    """The bytes of a bundle's file, unjudged.

    Raises:
        BundleError: unreadable or larger than `MAX_BUNDLE_BYTES`, without the file's name.
    """
    try:
        with path.open("rb") as file:
            # One byte more than allowed tells a large file apart without reading all of it.
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as error:
        raise BundleError(f"it cannot be read ({error.strerror})") from error
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleError(f"it is larger than {MAX_BUNDLE_BYTES} bytes")
    return content


def parse_bundle(archive: bytes) -> Bundle:
    """The bundle in `archive`, every digest checked and the schedule's id recomputed from its table.

    Raises:
        BundleError: what is wrong, without the file's name.
    """
    views = _members(archive)
    # One byte more than allowed is enough for the reader to refuse, and is all that is copied.
    manifest = Manifest.from_bytes(bytes(views[MANIFEST][: MAX_MANIFEST_BYTES + 1]))
    contents = {name: bytes(views[name]) for name in VOUCHED_MEMBERS}
    found = {name: _sha256(content) for name, content in contents.items()}
    for name in sorted(found | manifest.digests):
        if manifest.digests.get(name) != found.get(name):
            raise BundleError(f"{name} is not what the manifest vouches for (its SHA-256 differs)")
    return Bundle(
        manifest,
        contents[ONNX],
        _schedule_of(manifest, contents[SCHEDULE]),
        Golden.from_members(contents, manifest),
        Signatures.from_bytes(bytes(views[SIGNATURES][: MAX_SIGNATURES_BYTES + 1])),
        KeyHistory.from_bytes(bytes(views[KEYS][: MAX_KEY_LIST_BYTES + 1])),
    )


def _members(archive: bytes) -> dict[str, memoryview]:
    try:
        return dict(zip(MEMBERS, unpack(archive, MEMBERS), strict=True))
    except BundleError:
        if OLD_FORMAT in archive[:MAX_MANIFEST_BYTES]:
            raise BundleError("it is of the older format collafuse-bundle-v1, which is unsigned") from None
        raise


def _schedule_of(manifest: Manifest, table: bytes) -> NoiseSchedule:
    alpha_bar = array_from_bytes(table, SCHEDULE, "<f8", (manifest.schedule_T + 1,)).astype(np.float64)
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
    return array_to_bytes(schedule.alpha_bar.astype("<f8"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
