"""What a message may say, field by field and across fields."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.fields import MAX_PLAN_STEPS, MAX_REQUEST_SAMPLES, MAX_T, all_finite
from broker.contract.heads import MAX_BUNDLE_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, BundleV1, ChunkV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from broker.contract.telemetry import MAX_FIGURES, HeadReport, StepTimes, TelemetryV1, UpdateReport
from broker.contract.types import MESSAGE_TYPES
from tests.broker import examples


def rebuilt(message: Message, **changes: Any) -> Message:
    """Returns the message built anew with some fields changed."""
    return type(message)(**(dict(message) | changes))


def f16(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=np.float16)


def i32(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


UPDATE: dict[str, Any] = dict(examples.telemetry().update or ())
HEAD: dict[str, Any] = dict(examples.telemetry().head or ())
INT8 = np.ones((3, 1, 2, 2), dtype=np.int8)
PAIR = {"t": i32(301, 302, 1000), "noise": f16(3, 1, 2, 2)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schedule_id": "0123"}, "schedule_id"),
        ({"schedule_id": "0123456789ABCDEF"}, "schedule_id"),
        ({"schedule_id": "0123456789abcdef\n"}, "schedule_id"),
        ({"t_cut": 0}, "t_cut"),
        ({"t_cut": MAX_T + 1}, "t_cut"),
        ({"t_cut": 300.0}, "t_cut"),
        ({"t_cut": True}, "t_cut"),
        ({"release": -1}, "release"),
        ({"x": f16(3, 2, 2)}, "4 dimensions"),
        ({"x": f16(0, 1, 2, 2)}, "not be empty"),
        ({"x": np.zeros((3, 1, 2, 2))}, "float16"),
        ({"x": np.zeros((3, 1, 2, 2), dtype=">f4")}, "float16"),
        ({"x": np.zeros((3, 1, 2, 2), dtype=object)}, "float16"),
        ({"x": [[[[0.0]]]]}, "must be an array"),
        ({"x": np.full((3, 1, 2, 2), np.nan, dtype=np.float32)}, "finite"),
        ({"x": np.full((3, 1, 2, 2), -np.inf, dtype=np.float16)}, "finite"),
        ({"scale": f32(1, 1, 1)}, "int8 only"),
        ({"x": INT8}, "scale must be given"),
        ({"x": INT8, "scale": f32(1, 1)}, "one entry per sample"),
        ({"x": INT8, "scale": f32(1, -1, 1)}, "not be negative"),
        ({"x": INT8, "scale": f32(1, np.inf, 1)}, "finite"),
        ({"x": INT8 * -128, "scale": f32(1, 1, 1)}, "-127"),
        ({"labels": i32(0, 1)}, "one entry per sample"),
        ({"labels": i32(0, 1, -1)}, "not be negative"),
        ({"labels": np.arange(3)}, "int32"),
        ({"labels": i32(0, 1, 2).reshape(3, 1)}, "1 dimensions"),
        ({"t": i32(301, 302, 303)}, "together"),
        ({"noise": f16(3, 1, 2, 2)}, "together"),
        (PAIR | {"t": i32(301, 302)}, "one entry per sample"),
        (PAIR | {"t": i32(300, 301, 302)}, "above t_cut"),
        (PAIR | {"t": i32(301, 302, MAX_T + 1)}, "above t_cut"),
        (PAIR | {"noise": f16(3, 1, 4, 1)}, "shape of x"),
        ({"surprise": 1}, "surprise"),
    ],
    ids=str,
)
def test_samples_that_contradict_themselves_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        rebuilt(examples.samples(), **changes)


def test_samples_with_their_noise_and_steps_are_taken() -> None:
    message = rebuilt(examples.samples(), **PAIR)

    assert isinstance(message, SamplesV1)
    assert message.t is not None
    assert message.t.tolist() == [301, 302, 1000]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"request_id": "xyz"}, "request_id"),
        ({"shape": (1, 2)}, "shape"),
        ({"shape": (1, 2, 0)}, "shape"),
        ({"shape": (64, 512, 512)}, "fit in one message"),
        ({"n": 0}, "n\n"),
        ({"n": MAX_REQUEST_SAMPLES + 1}, "n\n"),
        ({"plan": (1000,)}, "plan"),
        ({"plan": (1000, 1000, 300)}, "strictly decreasing"),
        ({"plan": (300, 1000)}, "strictly decreasing"),
        ({"plan": (1000, -1)}, "plan"),
        ({"plan": (MAX_T + 1, 0)}, "plan"),
        ({"plan": tuple(range(MAX_PLAN_STEPS + 1, -1, -1))}, "plan"),
        ({"sampler": "euler"}, "sampler"),
        ({"eta": -0.1}, "eta"),
        ({"eta": float("nan")}, "eta"),
        ({"clip": 0.0}, "clip"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"labels": i32(1)}, "one entry per sample"),
        ({"dtype": "int8"}, "dtype"),
        ({"ttl_seconds": 0.0}, "ttl_seconds"),
        ({"ttl_seconds": float("inf")}, "ttl_seconds"),
        ({"priority": "urgent"}, "priority"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_served_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        rebuilt(examples.denoise(), **changes)


def test_a_request_stops_where_its_plan_ends() -> None:
    assert examples.denoise().t_stop == 300


def test_the_longest_plan_is_taken() -> None:
    message = rebuilt(examples.denoise(), plan=tuple(range(MAX_PLAN_STEPS, -1, -1)))

    assert isinstance(message, DenoiseV1)
    assert message.t_stop == 0


@pytest.mark.parametrize(
    ("message", "changes", "complaint"),
    [
        (examples.latents(), {"part": 2}, "below parts"),
        (examples.latents(), {"parts": 0}, "parts"),
        (examples.latents(), {"first": MAX_REQUEST_SAMPLES - 1, "x": f16(2, 1, 2, 2)}, "at most"),
        (examples.latents(), {"x": INT8}, "float16"),
        (examples.latents(), {"step_seconds": -1.0}, "step_seconds"),
        (examples.latents(), {"queued_seconds": float("nan")}, "queued_seconds"),
        (examples.failed(), {"reason": "Not a code"}, "reason"),
        (examples.failed(), {"detail": "x" * 501}, "detail"),
        (examples.round_(), {"cut_min": 0.7}, "cut_max"),
        (examples.round_(), {"cut_max": 1.1}, "cut_max"),
        (examples.round_(), {"schedule_name": "sigmoid"}, "schedule_name"),
        (examples.round_(), {"schedule_T": 0}, "schedule_T"),
        (examples.round_(), {"num_classes": 0}, "num_classes"),
        (examples.round_(), {"closes_in_seconds": -1.0}, "closes_in_seconds"),
        (examples.round_(), {"labels_wanted": ()}, "labels_wanted"),
        (examples.round_(), {"labels_wanted": (3, 3)}, "strictly rising"),
        (examples.round_(), {"labels_wanted": (3, 10)}, "below num_classes"),
        (examples.round_(), {"labels_wanted": (3,), "num_classes": None}, "needs num_classes"),
        (examples.receipt(), {"batch_id": "../../etc/passwd"}, "batch_id"),
        (examples.receipt(), {"samples": -1}, "samples"),
        (examples.receipt(), {"duplicate": 1}, "duplicate"),
        (examples.bundle(), {"bundle": "AB" * 32}, "bundle"),
        (examples.bundle(), {"size_bytes": 0}, "size_bytes"),
        (examples.bundle(), {"size_bytes": MAX_BUNDLE_BYTES + 1}, "size_bytes"),
        (examples.bundle(), {"chunk_bytes": 65_535}, "chunk_bytes"),
        (examples.bundle(), {"chunk_bytes": MAX_CHUNK_BYTES + 1}, "chunk_bytes"),
        (examples.bundle(), {"manifest": b""}, "manifest"),
        (examples.bundle(), {"manifest": "{}"}, "manifest"),
        (examples.bundle(), {"manifest": bytes(2**20 + 1)}, "manifest"),
        (examples.bundle(), {"signatures": bytes(2**16 + 1)}, "signatures"),
        (examples.bundle(), {"key_list": bytes(2**19 + 1)}, "key_list"),
        (examples.chunk(), {"index": -1}, "index"),
        (examples.chunk(), {"index": MAX_CHUNKS}, "index"),
        (examples.chunk(), {"content": b""}, "content"),
        (examples.chunk(), {"content": bytes(MAX_CHUNK_BYTES + 1)}, "content"),
        (examples.telemetry(), {"sequence": -1}, "sequence"),
        (examples.telemetry(), {"uptime_seconds": -1.0}, "uptime_seconds"),
        (examples.telemetry(), {"agent_version": "x" * 65}, "agent_version"),
        (examples.telemetry(), {"counters": {"Not a name": 1}}, "counters"),
        (examples.telemetry(), {"counters": {"losses": -1}}, "counters"),
        (examples.telemetry(), {"counters": {f"n{i}": 0 for i in range(MAX_FIGURES + 1)}}, "counters"),
        (examples.telemetry(), {"gauges": {"depth": float("nan")}}, "gauges"),
        (examples.telemetry(), {"gauges": {"depth": 1e19}}, "gauges"),
        (examples.telemetry(), {"gauges": {f"n{i}": 0.0 for i in range(MAX_FIGURES + 1)}}, "gauges"),
        (examples.telemetry(), {"head": {"bundle": "ab" * 32}}, "head"),
        (examples.telemetry(), {"update": 3}, "update"),
    ],
    ids=str,
)
def test_other_messages_that_make_no_sense_are_refused(
    message: Message, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        rebuilt(message, **changes)


finite = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    elements=st.floats(-1000, 1000, width=32),
)


@given(finite)
def test_float32_samples_lose_nothing(x: np.ndarray) -> None:
    message = SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, dtype="float32")

    np.testing.assert_array_equal(message.dequantised(), x)


@given(finite)
def test_float16_samples_lose_what_rounding_takes(x: np.ndarray) -> None:
    message = SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0)

    assert message.x.dtype == np.float16
    np.testing.assert_allclose(message.dequantised(), x, rtol=2**-11, atol=2**-25)


@given(finite)
def test_int8_samples_are_off_by_at_most_half_a_level(x: np.ndarray) -> None:
    message = SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, dtype="int8")

    off = np.abs(message.dequantised().astype(np.float64) - x).max(axis=(1, 2, 3))
    levels = np.abs(x).max(axis=(1, 2, 3)).astype(np.float64) / 127
    assert (off <= levels * 0.501 + 1e-37).all()


def test_normal_samples_keep_the_signal_that_was_promised() -> None:
    x = np.random.default_rng(0).standard_normal((64, 3, 32, 32), dtype=np.float32)

    def signal_to_noise_db(dtype: Any) -> float:
        message = SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, dtype=dtype)
        return float(10 * np.log10((x**2).mean() / ((message.dequantised() - x) ** 2).mean()))

    assert signal_to_noise_db("float16") > 72
    assert signal_to_noise_db("int8") > 38


def test_what_overflows_float16_is_refused_and_not_sent_as_infinity() -> None:
    x = np.full((1, 1, 1, 1), 1e6, dtype=np.float32)

    with pytest.raises(ValidationError, match="finite"):
        SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_samples_that_are_not_numbers_cannot_be_packed(dtype: Any) -> None:
    x = np.full((1, 1, 1, 1), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="finite"):
        SamplesV1.pack(x, schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, dtype=dtype)


def test_a_message_cannot_be_changed() -> None:
    message = examples.samples()

    with pytest.raises(ValidationError, match="frozen"):
        message.t_cut = 1  # type: ignore[misc]  # what the test is about
    with pytest.raises(ValueError, match="read-only"):
        message.x[0] = 0


def test_an_array_that_is_not_contiguous_is_taken_in_order() -> None:
    x = np.arange(16, dtype=np.float16).reshape(1, 1, 4, 4).transpose(0, 1, 3, 2)

    message = SamplesV1(schedule_id=examples.SCHEDULE_ID, t_cut=1, release=0, x=x)

    assert message.x.flags.c_contiguous
    np.testing.assert_array_equal(message.x, x)


@pytest.mark.parametrize("make", [examples.samples, examples.pairs, examples.denoise, examples.latents])
def test_a_message_equals_its_like_and_no_other(make: Any) -> None:
    assert make() == make()
    assert make() != rebuilt(make(), schedule_id="f" * 16)
    assert make() != examples.receipt()
    assert make() != 1


def test_messages_that_differ_in_an_array_alone_are_different() -> None:
    assert examples.samples() != rebuilt(examples.samples(), x=examples.samples().x * 2)
    assert examples.samples() != rebuilt(examples.samples(), labels=None)
    assert examples.samples() != rebuilt(examples.samples(), x=examples.samples().x.astype(np.float32))


def test_a_message_shows_the_shape_of_its_arrays_and_not_their_values() -> None:
    shown = repr(rebuilt(examples.latents(), x=np.full((1, 1, 2, 2), 123.0, dtype=np.float16)))

    assert "float16 (1, 1, 2, 2)" in shown
    assert "123" not in shown.replace(examples.SCHEDULE_ID, "").replace(examples.REQUEST_ID, "")


def test_an_error_does_not_show_the_values() -> None:
    with pytest.raises(ValidationError) as caught:
        FailedV1(request_id=examples.REQUEST_ID, reason="secret value!", detail="")

    assert "secret value" not in str(caught.value)


def test_lists_stand_for_tuples() -> None:
    assert rebuilt(examples.denoise(), plan=[1000, 650, 300], shape=[1, 2, 2]) == examples.denoise()


def test_every_type_name_is_the_word_and_its_version() -> None:
    models: list[type[Message]] = [
        SamplesV1,
        DenoiseV1,
        LatentsV1,
        FailedV1,
        RoundV1,
        ReceiptV1,
        BundleV1,
        ChunkV1,
        TelemetryV1,
    ]

    assert [model.type_name for model in models] == [
        "samples.v1",
        "denoise.v1",
        "latents.v1",
        "failed.v1",
        "round.v1",
        "receipt.v1",
        "bundle.v1",
        "chunk.v1",
        "telemetry.v1",
    ]
    assert list(MESSAGE_TYPES.values()) == models


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: UpdateReport(**UPDATE | {"missing": (1, 2, 3)}), "pairs"),
        (lambda: UpdateReport(**UPDATE | {"missing": (3, 2)}), "rising"),
        (lambda: UpdateReport(**UPDATE | {"missing": tuple(range(130))}), "missing"),
        (lambda: UpdateReport(**UPDATE | {"state": "fine"}), "state"),
        (lambda: UpdateReport(**UPDATE | {"reason": "Not a code"}), "reason"),
        (lambda: HeadReport(**HEAD | {"provider": "tpu"}), "provider"),
        (lambda: HeadReport(**HEAD | {"name": "Ward 7"}), "name"),
        (lambda: HeadReport(**HEAD | {"name": 'ward"} 1\n'}), "name"),
        (lambda: HeadReport(**HEAD | {"name": "ward\n"}), "name"),
        (lambda: HeadReport(**HEAD | {"name": "x" * 64}), "name"),
        (lambda: HeadReport(**HEAD | {"version": ""}), "version"),
        (lambda: HeadReport(**HEAD | {"version": "1 \N{SNOWMAN}"}), "version"),
        (lambda: HeadReport(**HEAD | {"version": "1" * 65}), "version"),
        (lambda: HeadReport(**HEAD | {"fallback": "x" * 201}), "fallback"),
        (lambda: HeadReport(**HEAD | {"surprise": 1}), "surprise"),
        (lambda: StepTimes(bounds=(1.0,), counts=(1,), sum_seconds=0.0), "one entry more"),
        (lambda: StepTimes(bounds=(1.0, 1.0), counts=(1, 1, 1), sum_seconds=0.0), "rising"),
        (lambda: StepTimes(bounds=(), counts=(1,), sum_seconds=float("inf")), "sum_seconds"),
    ],
)
def test_what_telemetry_says_has_to_make_sense(make: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        make()


def test_a_bundle_has_as_many_pieces_as_its_file_needs() -> None:
    bundle = examples.bundle()

    assert bundle.chunks == 4
    assert BundleV1(**dict(bundle) | {"size_bytes": 4 * 65_536}).chunks == 4
    assert BundleV1(**dict(bundle) | {"size_bytes": 4 * 65_536 + 1}).chunks == 5


def test_a_message_shows_how_long_its_bytes_are_and_not_what_they_say() -> None:
    shown = repr(examples.chunk())

    assert "<16 bytes>" in shown
    assert "\\x01" not in shown


@given(st.binary(min_size=4, max_size=64), st.sampled_from(["<f2", "<f4"]))
def test_finite_is_what_numpy_says_is_finite(bits: bytes, dtype: str) -> None:
    values = np.frombuffer(bits[: len(bits) // 4 * 4], dtype)

    assert all_finite(values) == bool(np.isfinite(values).all())


def test_finite_is_what_numpy_says_for_every_float16_there_is() -> None:
    for value in np.arange(2**16, dtype=np.uint16).view(np.float16):
        assert all_finite(np.array([0.5, value, -0.5], np.float16)) == bool(np.isfinite(value))
