"""Writing a file so that a reader sees the old one or the whole new one, never a half."""

import os
import secrets
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to the disk, and put it in place of `path` in one step.

    Whatever ends the writer (an exception, a signal turned into one, a full disk), the temporary file goes and
    `path` stays what it was; after a power cut `path` is the old file or the new one.

    Raises:
        OSError: the directory is missing, read-only or full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(path.parent)


def flush_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut: a new file, a rename. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
