"""A signed head on its way to the devices: what it is, and the pieces of its file."""

from typing import Annotated, ClassVar

from pydantic import Field

from broker.contract.fields import Digest
from broker.contract.message import Message

# What a bundle's reader refuses to take, too: what is larger could not be sent.
MAX_BUNDLE_BYTES = 512 * 2**20
MIN_CHUNK_BYTES = 64 * 2**10
MAX_CHUNK_BYTES = 2**20
MAX_MANIFEST_BYTES = 2**20
MAX_SIGNATURES_BYTES = 64 * 2**10
MAX_KEY_LIST_BYTES = 512 * 2**10
MAX_CHUNKS = MAX_BUNDLE_BYTES // MIN_CHUNK_BYTES

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
"""Of a head, and of the client whose it is; it may stand in a log, a label and a file's name."""
VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$"


class BundleV1(Message):
    """A head bundle is announced: enough for a device to judge whether it wants it, before it keeps a byte of it.

    Attributes:
        bundle: SHA-256 of the bundle's file; which bundle this is, everywhere.
        size_bytes: of the file.
        chunk_bytes: of every piece but the last.
        manifest: the bundle's manifest, byte for byte, as it was signed.
        signatures: the bundle's signatures, byte for byte.
        key_list: the signed lists of keys that the bundle came with, byte for byte, or None.
    """

    type_name: ClassVar[str] = "bundle.v1"

    bundle: Digest
    size_bytes: Annotated[int, Field(ge=1, le=MAX_BUNDLE_BYTES)]
    chunk_bytes: Annotated[int, Field(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)]
    manifest: Annotated[bytes, Field(min_length=1, max_length=MAX_MANIFEST_BYTES)]
    signatures: Annotated[bytes, Field(max_length=MAX_SIGNATURES_BYTES)]
    key_list: Annotated[bytes, Field(max_length=MAX_KEY_LIST_BYTES)] | None = None

    @property
    def chunks(self) -> int:
        """How many pieces the file has."""
        return -(-self.size_bytes // self.chunk_bytes)


class ChunkV1(Message):
    """One piece of a bundle's file.

    Attributes:
        bundle: SHA-256 of the whole file.
        index: of this piece, from 0; it begins at `index * chunk_bytes` of the announcement.
        content: its bytes.
    """

    type_name: ClassVar[str] = "chunk.v1"

    bundle: Digest
    index: Annotated[int, Field(ge=0, lt=MAX_CHUNKS)]
    content: Annotated[bytes, Field(min_length=1, max_length=MAX_CHUNK_BYTES)]
