"""A bundle as it travels: judged as a device would judge it, and cut into pieces."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.contract.heads import BundleV1, ChunkV1
from export.bundle.bundle import Bundle, parse_bundle, read_archive
from export.bundle.manifest import Manifest
from export.delivery.errors import DeliveryError
from export.errors import BundleError, ExportError
from export.signing.signing import verify_bundle

CHUNK_BYTES = 256 * 1024
"""A quarter of what a piece may have: on a slow link a piece passes within a heartbeat."""


@dataclass(frozen=True, eq=False)
class Parcel:
    """A bundle that may be sent.

    manifest: what it is.
    announcement: the message that goes before the pieces.
    content: the file.
    """

    manifest: Manifest
    announcement: BundleV1
    content: bytes

    @property
    def title(self) -> str:
        """For people."""
        return f"head {self.manifest.name} {self.manifest.version} (counter {self.manifest.counter})"

    def chunks(self, ranges: Iterable[tuple[int, int]] | None = None) -> Iterator[ChunkV1]:
        """The pieces in these ranges (begin, end), or all of them."""
        size = self.announcement.chunk_bytes
        for begin, end in [(0, self.announcement.chunks)] if ranges is None else ranges:
            for index in range(begin, min(end, self.announcement.chunks)):
                content = self.content[index * size : (index + 1) * size]
                yield ChunkV1(bundle=self.announcement.bundle, index=index, content=content)


def pack(path: Path, *, client: str, keys: Sequence[str], chunk_bytes: int = CHUNK_BYTES) -> Parcel:
    """Read a bundle and judge it as a device will: whom it is for, who vouches for it, its date, its figures.

    Args:
        path: of the bundle.
        client: whose devices it is for.
        keys: public keys that have to vouch for it, as in the devices' settings.
        chunk_bytes: of a piece.

    Raises:
        DeliveryError: if it cannot be read, no keys are given, or no device would take it.
    """
    try:
        content = read_archive(path)
        bundle = parse_bundle(content)
    except BundleError as error:
        raise DeliveryError(f"{path} is not a usable bundle: {error}; export it again") from error
    _check(path, bundle, client, keys)
    return wrap(content, bundle, chunk_bytes)


def wrap(content: bytes, bundle: Bundle, chunk_bytes: int = CHUNK_BYTES) -> Parcel:
    """The parcel of a file, judged by nobody; `bundle` is what was read of it."""
    announcement = BundleV1(
        bundle=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        chunk_bytes=chunk_bytes,
        manifest=bundle.manifest_bytes,
        signatures=bundle.signatures.to_bytes(),
        key_list=bundle.key_list.to_bytes() if bundle.key_list.lists else None,
    )
    return Parcel(bundle.manifest, announcement, content)


def _check(path: Path, bundle: Bundle, client: str, keys: Sequence[str]) -> None:
    if bundle.manifest.client != client:
        raise DeliveryError(
            f"{path} belongs to {bundle.manifest.client}, and the devices to {client}: no device would take it"
        )
    if not bundle.signatures.signatures:
        raise DeliveryError(f"{path} is not signed, and no device would take it: `collafuse export sign`")
    if not keys:
        raise DeliveryError(
            "say whose signature the devices believe: --key ed25519:..., or head_keys in the owner's file"
        )
    try:
        verify_bundle(bundle, keys, time.time())
    except ExportError as error:
        raise DeliveryError(f"{path} would be refused by the devices: {error}") from error
