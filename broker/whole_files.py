"""Small files that appear whole: written beside their place, on the disk before they have the name, then renamed."""

import errno
import os
import secrets
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int = 0o600, replace: bool = True) -> None:
    """Puts a file in place as one step: a reader finds what was there before or all of the new, whenever this is killed.

    Args:
        path: of the file; its folder is there.
        text: written as UTF-8.
        mode: of the file from its first byte on, whatever the umask; by default it is its owner's alone.
        replace: over a file that is there.

    Raises:
        FileExistsError: if something is there and is not to be replaced.
        OSError: if it cannot be written; what was there stays.
    """
    # A name of its own, and not by the process's number: in two containers that is the same.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)
            stream.write(text)
            stream.flush()
            os.fsync(descriptor)
        if replace:
            draft.replace(path)
        else:
            _rename_to_new(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _rename_to_new(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)  # unlike a renaming never over what is there
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        draft.replace(path)
