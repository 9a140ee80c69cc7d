"""The wire: what goes out comes back, and whatever else comes in is refused, without harm."""

import hashlib
import math
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from broker import codec
from broker.contract.denoise import FailedV1
from broker.contract.fields import MAX_BODY_BYTES
from broker.contract.message import Message
from broker.contract.samples import SamplesV1
from broker.contract.types import MESSAGE_TYPES
from broker.errors import MessageTooLarge, Refused
from monitoring.errors import Disposition
from tests.broker import examples

TYPES = sorted(MESSAGE_TYPES)

ARRAY = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [1, 1, 1, 2], b"data": bytes(8)}


def refused(type_name: str, body: bytes) -> Refused:
    """Decodes what must not be taken, and returns the refusal."""
    with pytest.raises(Refused) as caught:
        codec.decode(type_name, body)
    return caught.value


def latents_with(x: object) -> bytes:
    """Returns a latents.v1 body that is right but for its array."""
    fields = dict(examples.latents()) | {"x": x}
    return bytes(msgpack.packb(fields))


def decoded_or_refused(type_name: str, body: bytes) -> Message | Refused:
    try:
        return codec.decode(type_name, body)
    except Refused as refusal:
        return refusal


@given(examples.messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    body = codec.encode(message)

    assert codec.decode(message.type_name, body) == message
    assert codec.encode(codec.decode(message.type_name, body)) == body


@pytest.mark.parametrize("message", examples.one_of_each(), ids=lambda message: message.type_name)
def test_arrays_arrive_read_only_and_without_a_copy(message: Message) -> None:
    body = codec.encode(message)

    found = codec.decode(message.type_name, body)

    for _, value in found:
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable
            assert not value.flags.owndata
            assert value.flags.c_contiguous


def golden(name: str) -> tuple[str, bytes]:
    """The type and the body of one file of golden/, which strangers may read too: comments, then hex."""
    lines = (Path(__file__).parent / "golden" / f"{name}.hex").read_text(encoding="utf-8").splitlines()
    body = "".join(line for line in lines if not line.startswith("#"))
    return lines[0].removeprefix("# "), bytes.fromhex(body)


@pytest.mark.parametrize("message", examples.one_of_each(), ids=lambda message: message.type_name)
def test_the_bytes_of_each_message_are_pinned(message: Message) -> None:
    name = next(name for name, make in NAMED.items() if make() == message)
    type_name, body = golden(name)

    assert codec.encode(message) == body
    assert codec.decode(type_name, body) == message


def test_there_is_a_golden_file_for_every_message_and_no_other() -> None:
    assert {path.stem for path in (Path(__file__).parent / "golden").iterdir()} == set(NAMED)


NAMED: dict[str, Callable[[], Message]] = {
    "samples": examples.samples,
    "pairs": examples.pairs,
    "denoise": examples.denoise,
    "latents": examples.latents,
    "failed": examples.failed,
    "round": examples.round_,
    "narrow_round": examples.narrow_round,
    "receipt": examples.receipt,
    "bundle": examples.bundle,
    "chunk": examples.chunk,
    "telemetry": examples.telemetry,
}


def test_the_shortest_message_is_pinned_byte_for_byte() -> None:
    pinned = "83a862617463685f6964d940" + "6162" * 32 + "a773616d706c657303a96475706c6963617465c2"

    assert codec.encode(examples.receipt()).hex() == pinned
    assert codec.decode("receipt.v1", bytes.fromhex(pinned)) == examples.receipt()


def test_a_round_that_asks_nothing_new_is_written_as_before_the_new_fields() -> None:
    assert {"closes_in_seconds", "labels_wanted"}.isdisjoint(
        msgpack_numpy.unpackb(codec.encode(examples.round_()))
    )


def test_every_type_has_golden_bytes() -> None:
    assert {make().type_name for make in NAMED.values()} == set(MESSAGE_TYPES)


def test_the_array_form_is_that_of_msgpack_numpy() -> None:
    body = codec.encode(examples.latents())

    fields = msgpack_numpy.unpackb(body)

    np.testing.assert_array_equal(fields["x"], examples.latents().x)


@given(st.sampled_from(TYPES), st.binary(max_size=600))
@example("failed.v1", b"")
@example("failed.v1", b"\xc1")
@example("failed.v1", b"\x91" * 5000)
@example("failed.v1", b"\x81" * 5000)
@example("failed.v1", b"\xdd\xff\xff\xff\xff")
@example("failed.v1", b"\xdf\xff\xff\xff\xff")
@example("failed.v1", b"\xc6\xff\xff\xff\xff")
@example("failed.v1", b"\xdb\xff\xff\xff\xff")
@example("failed.v1", b"\xd7\xff" + bytes(8))
@example("failed.v1", b"\xd4\x01\x00")
@example("failed.v1", b"\x81\xa1\xff\x00")
@example("failed.v1", b"\x81\x90\x00")
@example("failed.v1", b"\x81\x80\x00")
@example("failed.v1", b"\x80\x80")
@settings(max_examples=400)
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(type_name: str, body: bytes) -> None:
    found = decoded_or_refused(type_name, body)

    assert isinstance(found, Refused)
    assert found.disposition is Disposition.DEAD_LETTER
    assert len(str(found)) < 500


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from([b"nd", b"type", b"kind", b"shape", b"data"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(examples.one_of_each()), st.data())
@settings(max_examples=300)
def test_a_field_of_any_other_content_is_taken_as_valid_or_refused(
    message: Message, data: st.DataObject
) -> None:
    fields = msgpack.unpackb(codec.encode(message))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(_values)

    found = decoded_or_refused(message.type_name, msgpack.packb(fields))

    if not isinstance(found, Refused):
        assert codec.decode(found.type_name, codec.encode(found)) == found


@given(st.sampled_from(examples.one_of_each()), st.data())
@settings(max_examples=500)
def test_mutated_bytes_are_a_valid_message_or_refused(message: Message, data: st.DataObject) -> None:
    body = bytearray(codec.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["set", "cut", "insert"])):
            case "set":
                body[place] = data.draw(st.integers(0, 255))
            case "cut":
                del body[place : place + data.draw(st.integers(1, 8))]
            case _:
                body[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        assume(body)

    found = decoded_or_refused(message.type_name, bytes(body))

    if not isinstance(found, Refused):
        assert codec.decode(found.type_name, codec.encode(found)) == found


@given(st.text(max_size=40))
def test_an_unknown_type_is_refused(type_name: str) -> None:
    assume(type_name not in MESSAGE_TYPES)

    assert refused(type_name, codec.encode(examples.receipt())).reason in {"unknown_type", "unknown_version"}


def test_an_unknown_version_is_refused_and_the_known_one_named() -> None:
    refusal = refused("samples.v2", codec.encode(examples.samples()))

    assert refusal.reason == "unknown_version"
    assert "samples.v1" in refusal.detail


@pytest.mark.parametrize("type_name", [None, 3, b"samples.v1"])
def test_a_type_that_is_no_text_is_refused(type_name: Any) -> None:
    assert refused(type_name, b"\x80").reason == "unknown_type"


class Touch:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_in_kind_o_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    exploit = ARRAY | {b"kind": b"O", b"type": "|O", b"data": pickle.dumps(Touch(mark))}

    refusal = refused("latents.v1", latents_with(exploit))

    assert refusal.reason == "bad_array"
    assert not mark.exists()
    msgpack_numpy.unpackb(latents_with(exploit))
    assert mark.exists(), "the exploit is harmless even without the guard: this test proves nothing"


@pytest.mark.parametrize(
    "dtype",
    ["|O", "O", "<f8", ">f4", "|V8", "|S4", "<U2", "<M8[s]", "<c8", "|b1", "f4", b"<f4", ["<f4"], 4, None],
)
def test_only_the_contracts_dtypes_are_taken(dtype: object) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"type": dtype})).reason == "bad_array"


@pytest.mark.parametrize("kind", [b"O", b"V", b"f", "", None, 0, True])
def test_only_an_empty_kind_is_taken(kind: object) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"kind": kind})).reason == "bad_array"


@pytest.mark.parametrize("mark", [False, 1, "true", None, b"\x01"])
def test_only_nd_true_is_taken(mark: object) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"nd": mark})).reason == "bad_array"


@pytest.mark.parametrize(
    "shape",
    [
        [0, 10**9],
        [0],
        [-1, -2],
        [1, 1, 1, -2],
        [2**63, 2],
        [2**62, 2, 2, 2],
        [10**9, 1, 1, 1],
        [True, 1, 1, 2],
        [1.0, 1, 1, 2],
        ["1", 1, 1, 2],
        [1, 1, 1, 1, 2],
        [None, 2],
        [[1], 2],
        [],
        2,
        "12",
        b"\x02",
        None,
        {},
    ],
    ids=repr,
)
def test_a_hostile_shape_is_refused_before_an_array_exists(shape: object) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"shape": shape})).reason == "bad_array"


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), "12345678", None, [0] * 8, 8])
def test_bytes_that_do_not_fill_the_shape_are_refused(data: object) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"data": data})).reason == "bad_array"


@pytest.mark.parametrize("missing", sorted(ARRAY))
def test_an_array_with_a_key_missing_is_refused(missing: bytes) -> None:
    incomplete = {key: value for key, value in ARRAY.items() if key != missing}

    assert refused("latents.v1", latents_with(incomplete)).reason == "bad_array"


def test_an_array_with_a_key_too_many_is_refused() -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"complex": True})).reason == "bad_array"
    assert refused("latents.v1", latents_with(ARRAY | {"extra": 1})).reason == "bad_array"


def test_an_array_instead_of_a_message_is_refused() -> None:
    assert refused("latents.v1", msgpack.packb(ARRAY)).reason == "not_a_map"


def test_a_key_named_twice_is_refused() -> None:
    body = codec.encode(examples.receipt())
    twice = bytes([body[0] + 1]) + body[1:] + msgpack.packb("samples") + msgpack.packb(4)

    assert refused("receipt.v1", twice).reason == "repeated_key"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x = np.array([0, value], dtype="<f4")

    assert refused("latents.v1", latents_with(ARRAY | {b"data": x.tobytes()})).reason == "invalid_fields"


@pytest.mark.parametrize("shape", [[2], [1, 2], [1, 1, 2]])
def test_an_array_of_another_rank_is_refused(shape: list[int]) -> None:
    assert refused("latents.v1", latents_with(ARRAY | {b"shape": shape})).reason == "invalid_fields"


def test_an_array_where_none_belongs_is_refused() -> None:
    fields = dict(examples.receipt()) | {"samples": ARRAY}

    assert refused("receipt.v1", msgpack.packb(fields)).reason == "invalid_fields"


def test_a_body_above_the_limit_is_refused_unread() -> None:
    assert refused("failed.v1", bytes(MAX_BODY_BYTES + 1)).reason == "body_too_large"
    with pytest.raises(Refused, match="body_too_large"):
        codec.decode("receipt.v1", codec.encode(examples.receipt()), max_body_bytes=10)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20,
        b"\xdc\x10\x00" + (b"\xdc\x03\xe8" + b"\x80" * 1000) * 4096,
        b"\xdc\x10\x00" + (b"\xdc\x03\xe8" + b"\xc0" * 1000) * 4096,
        b"\xdc\x10\x00" + b"\xdc\x10\x00" * 4096 + b"\xc0" * 4096,
        b"\x81\xa1a" * 1000 + b"\xc0",
    ],
    ids=["a long list", "lists of maps", "lists of nothing", "lists in lists", "maps in maps"],
)
def test_a_body_cannot_make_us_hold_much_more_than_itself(bomb: bytes) -> None:
    bomb = bomb[:MAX_BODY_BYTES]
    tracemalloc.start()
    try:
        refused("failed.v1", bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 3 * MAX_BODY_BYTES


def test_a_refusal_does_not_repeat_what_it_refuses() -> None:
    secret = "hunter2" * 200
    fields = dict(examples.failed()) | {"detail": secret, "reason": secret, secret: secret}

    refusal = refused("failed.v1", msgpack.packb(fields))

    assert refusal.reason == "invalid_fields"
    assert len(refusal.detail) <= 300
    assert str(refusal).count("hunter2") <= 12  # the beginning of an unknown field's name, and no value


def test_a_refusal_stays_on_one_line() -> None:
    body = msgpack.packb(dict(examples.failed()) | {"a\nb\x1b[31m": 1})

    assert "\n" not in str(refused("failed.v1", body))
    assert "\x1b" not in str(refused("failed.v1", body))
    assert "\n" not in str(refused("a\nb", body))


def test_a_message_too_large_to_send_says_how_to_go_on() -> None:
    x = np.zeros((1, 1, 1024, 2049), dtype=np.float16)
    message = SamplesV1(schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, x=x)

    with pytest.raises(MessageTooLarge, match="fewer samples"):
        codec.encode(message)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 256, 256), (1, 1, 1)])
def test_as_many_samples_as_promised_fit_in_a_body(dtype: Any, shape: tuple[int, int, int]) -> None:
    n = codec.samples_per_body(shape, dtype)

    message = SamplesV1.pack(
        np.zeros((n, *shape), dtype=np.float32),
        schedule_id=examples.SCHEDULE_ID,
        t_cut=1,
        release=0,
        dtype=dtype,
        labels=np.zeros(n, dtype=np.int32),
    )

    assert len(codec.encode(message)) <= MAX_BODY_BYTES


def test_the_digest_tells_bodies_apart_and_repeats_itself() -> None:
    body = codec.encode(examples.samples())

    assert codec.digest(body) == hashlib.sha256(body).hexdigest()
    assert codec.digest(codec.encode(examples.samples())) == codec.digest(body)
    assert codec.digest(codec.encode(examples.samples(2))) != codec.digest(body)


def test_a_detail_of_the_full_length_in_wide_characters_can_be_sent() -> None:
    message = FailedV1(request_id=examples.REQUEST_ID, reason="x", detail="😀" * 500)

    assert codec.decode("failed.v1", codec.encode(message)) == message
