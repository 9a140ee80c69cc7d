"""The container of a bundle: a stored zip that has exactly one form for its content.

Any zip tool opens it, but this reader takes nothing except the bytes that `pack` would have written: nothing is
compressed (so nothing can explode), the members and their order are known, times are fixed and no field is free.
A flipped byte anywhere, in a member or in the container's own fields, is therefore always noticed, and the form does
not depend on the Python that wrote it. Layout: PKWARE APPNOTE 6.3.9, sections 4.3.7, 4.3.12 and 4.3.16.
"""

import struct
import zlib
from collections.abc import Sequence

from export.errors import BundleError

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_VERSION = 20  # the oldest reader that understands a stored member
_UNIX = 3 << 8
_DATE = 0x0021  # 1980-01-01, the first day a zip can name
_MODE = 0o100644 << 16
_LOCAL_SIZE_OFFSET = 18
MAX_MEMBER_BYTES = 512 * 2**20


def pack(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The archive of `members` (name, content), in their order.

    Raises:
        BundleError: a member is larger than `MAX_MEMBER_BYTES`.
    """
    parts: list[bytes] = []
    entries: list[tuple[str, int, int, int]] = []
    offset = 0
    for name, content in members:
        if len(content) > MAX_MEMBER_BYTES:
            raise BundleError(
                f"{name} has {len(content)} bytes, a bundle's member at most {MAX_MEMBER_BYTES}; "
                "export a smaller network"
            )
        header = _local_header(name, zlib.crc32(content), len(content))
        entries.append((name, zlib.crc32(content), len(content), offset))
        parts += [header, content]
        offset += len(header) + len(content)
    return b"".join([*parts, _directory(entries, offset)])


def unpack(archive: bytes, names: Sequence[str]) -> list[memoryview]:
    """The contents of the members `names`, which must be all there is, as views into `archive`.

    Raises:
        BundleError: `archive` is anything but what `pack` makes of these names.
    """
    view = memoryview(archive)
    contents: list[memoryview] = []
    entries: list[tuple[str, int, int, int]] = []
    offset = 0
    for name in names:
        start = offset + len(_local_header(name, 0, 0))
        if len(view) < start:
            raise BundleError(f"it ends before {name}")
        size = int.from_bytes(view[offset + _LOCAL_SIZE_OFFSET : offset + _LOCAL_SIZE_OFFSET + 4], "little")
        content = view[start : start + size]
        checksum = zlib.crc32(content)
        if view[offset:start] != _local_header(name, checksum, size) or len(content) != size:
            raise BundleError(f"{name} is damaged, cut short, or not where it belongs")
        entries.append((name, checksum, size, offset))
        contents.append(content)
        offset = start + size
    if view[offset:] != _directory(entries, offset):
        raise BundleError("its table of contents is damaged, or something was added to it")
    return contents


def _local_header(name: str, checksum: int, size: int) -> bytes:
    fields = (_VERSION, 0, 0, 0, _DATE, checksum, size, size, len(name), 0)
    return _LOCAL.pack(b"PK\x03\x04", *fields) + name.encode("ascii")


def _directory(entries: Sequence[tuple[str, int, int, int]], start: int) -> bytes:
    records = []
    for name, checksum, size, offset in entries:
        sizes = (checksum, size, size, len(name), 0, 0, 0, 0, _MODE, offset)
        record = _CENTRAL.pack(b"PK\x01\x02", _UNIX | _VERSION, _VERSION, 0, 0, 0, _DATE, *sizes)
        records.append(record + name.encode("ascii"))
    directory = b"".join(records)
    return directory + _END.pack(b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), start, 0)
