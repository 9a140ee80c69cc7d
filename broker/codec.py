"""The wire form: a msgpack map of the message's fields, arrays in the form of msgpack-numpy.

msgpack-numpy alone must never see bytes from the network: its decoder runs `pickle` for `kind` `O` and lets numpy read foreign
memory for an object dtype. Here every array is checked for exact keys, an allow-listed dtype, an empty kind, its rank, its
dimensions and its byte count, all before an array exists; only then is it handed on. Decoding copies no array data.
"""

import hashlib
import math
import re
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import numpy.typing as npt
import pydantic

from broker.contract.fields import ENVELOPE_BYTES, MAX_BODY_BYTES, MAX_PLAN_STEPS
from broker.contract.message import Message
from broker.contract.types import MESSAGE_TYPES
from broker.errors import MessageTooLarge, Refused

MAX_NDIM = 4
MAX_TEXT_BYTES = 2048
MAX_MAPS = 16
"""One map for the message and one for each array; an empty map costs one byte to send and sixty-four to hold."""
MAX_LISTS = 32
DTYPES = frozenset({"<f2", "<f4", "|i1", "<i4"})

_ARRAY_KEYS = frozenset({b"nd", b"type", b"kind", b"shape", b"data"})
_TYPE = re.compile(r"([a-z]{1,32})\.v([0-9]{1,9})")
_MAX_DETAIL_CHARACTERS = 300


def encode(message: Message) -> bytes:
    """Returns the body of `message`; the same message always gives the same bytes.

    Raises:
        MessageTooLarge: above MAX_BODY_BYTES; split the samples over several messages.
    """
    body: bytes = msgpack.packb(message.on_wire(), default=msgpack_numpy.encode, use_bin_type=True)
    if len(body) > MAX_BODY_BYTES:
        raise MessageTooLarge(
            f"a {message.type_name} of {len(body)} bytes exceeds {MAX_BODY_BYTES}: send fewer samples per message"
        )
    return body


def decode(type: str, body: bytes, *, max_body_bytes: int = MAX_BODY_BYTES) -> Message:  # noqa: A002  # AMQP's word
    """Returns the message that `body` holds.

    Args:
        type: the AMQP `type` property, `name.vN`.
        body: anything at all.
        max_body_bytes: larger bodies are refused unread.

    Raises:
        Refused: for whatever cannot be taken; nothing else is ever raised.
    """
    model = _model(type)
    if len(body) > max_body_bytes:
        raise Refused("body_too_large", f"{len(body)} bytes, at most {max_body_bytes} are taken")
    fields = _unpack(body)
    try:
        return model.model_validate(fields)
    except pydantic.ValidationError as error:
        raise Refused("invalid_fields", _summary(error)) from None


def digest(body: bytes) -> str:
    """Returns the SHA-256 of a body, 64 hex digits: the `message_id` by which a repeat is recognised."""
    return hashlib.sha256(body).hexdigest()


def samples_per_body(shape: tuple[int, int, int], dtype: npt.DTypeLike, *, arrays: int = 1) -> int:
    """Returns how many samples of (C, H, W) fit in one message, at least 1 (which may yet be refused by `encode`).

    Args:
        shape: of one sample.
        dtype: its element type on the wire.
        arrays: 2 when every sample comes with its noise.
    """
    # Beside its values a sample may carry a label, a step and a scale: twelve bytes.
    sample_bytes = math.prod(shape) * np.dtype(dtype).itemsize * arrays + 12
    return max(1, (MAX_BODY_BYTES - ENVELOPE_BYTES) // sample_bytes)


def _model(type_name: object) -> type[Message]:
    if not isinstance(type_name, str) or (match := _TYPE.fullmatch(type_name)) is None:
        raise Refused("unknown_type", f"the type property must read name.vN, not {_short(type_name)}")
    model = MESSAGE_TYPES.get(type_name)
    if model is not None:
        return model
    known = sorted(name for name in MESSAGE_TYPES if name.startswith(f"{match[1]}.v"))
    if known:
        raise Refused("unknown_version", f"{type_name} is not understood here, {', '.join(known)} is")
    raise Refused("unknown_type", f"{type_name} is not understood here")


def _unpack(body: bytes) -> dict[str, Any]:
    guard = _Guard()
    try:
        fields = msgpack.unpackb(
            body,
            raw=False,
            use_list=False,
            strict_map_key=True,
            object_pairs_hook=guard.map,
            list_hook=guard.list,
            ext_hook=guard.extension,
            max_str_len=MAX_TEXT_BYTES,
            max_bin_len=len(body),
            # Room is made when a list's header is read, before its entries are: a body cannot hold more of them than bytes.
            max_array_len=min(MAX_PLAN_STEPS + 1, len(body)),
            max_map_len=64,
            max_ext_len=0,
        )
    # Everything msgpack documents, and what its C and Python decoders raise besides for malformed or hostile input.
    except (
        msgpack.UnpackException,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        BufferError,
    ) as error:
        raise Refused("not_msgpack", f"the body cannot be unpacked: {_short(error)}") from None
    if not isinstance(fields, dict):
        raise Refused("not_a_map", "the body must be a map of fields")
    return fields


class _Guard:
    """Judges every map and list of one body as the unpacker completes it, innermost first."""

    def __init__(self) -> None:
        self._maps = 0
        self._lists = 0

    def map(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any] | npt.NDArray[Any]:
        self._maps += 1
        if self._maps > MAX_MAPS:
            raise Refused("too_complex", f"more than {MAX_MAPS} maps in one body")
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise Refused("repeated_key", "a map names a key twice")
        if any(isinstance(key, bytes) for key in fields):
            return _checked_array(fields)
        return fields

    def list(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        self._lists += 1
        if self._lists > MAX_LISTS:
            raise Refused("too_complex", f"more than {MAX_LISTS} lists in one body")
        return items

    def extension(self, code: int, data: bytes) -> object:
        raise Refused(
            "not_msgpack", f"extension type {code} of {len(data)} bytes is not part of the contract"
        )


def _checked_array(fields: dict[Any, Any]) -> npt.NDArray[Any]:
    """Returns the read-only array of a map in msgpack-numpy's form, if every entry is as it must be."""
    if fields.keys() != _ARRAY_KEYS:
        raise Refused("bad_array", "an array has exactly the keys nd, type, kind, shape and data")
    if fields[b"nd"] is not True:
        raise Refused("bad_array", "nd must be true")
    if type(fields[b"kind"]) is not bytes or fields[b"kind"] != b"":
        raise Refused("bad_array", "kind must be empty")
    dtype = fields[b"type"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise Refused("bad_array", f"dtype {_short(dtype)} is not one of {', '.join(sorted(DTYPES))}")
    data = fields[b"data"]
    if type(data) is not bytes:
        raise Refused("bad_array", "data must be bytes")
    size = math.prod(_checked_shape(fields[b"shape"]))
    if size * np.dtype(dtype).itemsize != len(data):
        raise Refused("bad_array", f"{len(data)} bytes do not hold {size} elements of {dtype}")
    array: npt.NDArray[Any] = msgpack_numpy.decode(fields)
    return array


def _checked_shape(shape: object) -> tuple[int, ...]:
    if type(shape) is not tuple or not 1 <= len(shape) <= MAX_NDIM:
        raise Refused("bad_array", f"shape must list 1 to {MAX_NDIM} dimensions")
    # `type() is int`: True is an int to isinstance, and the bound keeps the product of four of them small.
    if not all(type(side) is int and 1 <= side <= MAX_BODY_BYTES for side in shape):
        raise Refused("bad_array", f"every dimension must be an integer from 1 to {MAX_BODY_BYTES}")
    return shape


def _summary(error: pydantic.ValidationError) -> str:
    """Names the fields and what is wrong with them, without their values, in one bounded line."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(_short(part) for part in p['loc']) or 'message'}: {p['msg']}" for p in problems[:3]]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return ("; ".join(lines) + more)[:_MAX_DETAIL_CHARACTERS]


def _short(value: object) -> str:
    """Returns a bounded, printable, one-line form: what comes from the network must not shape a log."""
    text = value[:80] if isinstance(value, str | bytes) else value
    return ascii(text)[:80] if isinstance(text, str | bytes) else ascii(str(text)[:80])[1:-1][:80]
