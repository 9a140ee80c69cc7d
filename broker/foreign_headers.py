"""AMQP headers that somebody else wrote, read without harm.

pika reads every header of a message before we see it, and raises on what it cannot express in Python: a time after the year
9999, tables nested a thousand deep. A device chooses its headers, RabbitMQ hands them on as they
are, and the exception ends the connection of whoever is sent the message, with all that this connection had in hand.
"""

import struct
from typing import Any

import pika.data

_SIZES = {b"T": 8, b"f": 4, b"d": 8, b"D": 5}
_COUNTED = frozenset({b"A", b"F", b"S", b"x"})
_read_value = pika.data.decode_value


def make_harmless() -> None:
    """Makes pika read a header's value that it cannot read as None, from now on, in this process."""
    pika.data.decode_value = _value


def _value(encoded: bytes, offset: int) -> tuple[Any, int]:
    try:
        value: tuple[Any, int] = _read_value(encoded, offset)
    except (ValueError, ArithmeticError, OSError, RecursionError, LookupError, struct.error):
        kind = encoded[offset : offset + 1]
        if kind in _SIZES:
            return None, offset + 1 + _SIZES[kind]
        if kind in _COUNTED:
            (size,) = struct.unpack_from(">I", encoded, offset + 1)
            return None, offset + 5 + size
        raise
    return value
