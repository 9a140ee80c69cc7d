"""Memory that was freed, given back to the system: the C library keeps it for a next time that an idle device may not have."""

import ctypes
import functools
from collections.abc import Callable


def trim() -> None:
    """Return free pages of the heap; does nothing where the C library has no `malloc_trim`, which is glibc's."""
    malloc_trim = _malloc_trim()
    if malloc_trim is not None:
        malloc_trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    call: Callable[[int], int] = found
    return call
