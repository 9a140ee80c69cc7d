"""A mark by which one place of the program knows again what it has made itself.

A type alone says little in Python: `object.__new__`, `dataclasses.replace`, `copy` and a write into an array make
things that look like those a function has returned. What bears a mark can be asked whether it still is as it was
made, by whom it was made. The key is drawn anew in each process, so a mark cannot be written down and read back in
another. It is a guard against mistakes, not against code that sets out to break it: that could send what it likes.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

_KEY_BYTES = 32
_MARK_BYTES = 16
_LENGTH_BYTES = 8


class Seal:
    """Makes marks, and knows its own."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(_KEY_BYTES)

    def mark(self, parts: Iterable[bytes]) -> bytes:
        """The mark of these parts in this order: 16 bytes."""
        digest = hashlib.blake2b(key=self._key, digest_size=_MARK_BYTES)
        for part in parts:
            # With its length, or two parts could trade bytes at their border.
            digest.update(len(part).to_bytes(_LENGTH_BYTES, "little") + part)
        return digest.digest()

    def is_mine(self, mark: object, parts: Iterable[bytes]) -> bool:
        """Whether `mark` was made here for exactly these parts."""
        return isinstance(mark, bytes) and hmac.compare_digest(mark, self.mark(parts))
