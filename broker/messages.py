"""The messages of the contract, as frozen models that are valid by construction.

Sender and receiver build the same classes, so what one may say is exactly what the other takes. Fields are checked strictly (no
coercion) and against each other; arrays are finite, little-endian, C-contiguous and read-only. The wire form is `broker.codec`'s.

Invalid arguments raise `pydantic.ValidationError` (a `ValueError`) whose text never contains the values.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from broker.fields import (
    ENVELOPE_BYTES,
    MAX_BODY_BYTES,
    MAX_LABELS_WANTED,
    MAX_PLAN_STEPS,
    MAX_REQUEST_SAMPLES,
    MAX_SECONDS,
    MAX_T,
    Array,
    Count,
    Dtype,
    Label,
    Labels,
    MessageId,
    RequestId,
    Sampler,
    ScheduleId,
    Seconds,
    Shape,
    Timestep,
    array_of,
    as_tuple,
    check_labels,
    optional,
)

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_REQUEST_SAMPLES",
    "MESSAGE_TYPES",
    "DenoiseV1",
    "FailedV1",
    "LatentsV1",
    "Message",
    "ReceiptV1",
    "RoundV1",
    "SamplesV1",
]


class Message(BaseModel):
    """What every message of the contract has in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )
    type_name: ClassVar[str]
    """The AMQP `type` property: `name.vN`."""
    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first version of a type: while they are None they are left out of the body, so that a program
    that does not know them takes it."""

    def on_wire(self) -> dict[str, Any]:
        """The fields as a body names them."""
        return {name: value for name, value in self if value is not None or name not in self.later_fields}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(value, getattr(other, name)) for name, value in self)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Shows arrays by dtype and shape: a message in a log line must not carry its tensors."""
        for name, value in self:
            yield name, f"<{value.dtype} {value.shape}>" if isinstance(value, np.ndarray) else value


def _same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and left == right


class SamplesV1(Message):
    """Released samples on their way to the trainer.

    Attributes:
        schedule_id: digest of the ᾱ table that the samples were noised with.
        t_cut: the step of the release; at least 1, for a clean image is never sent.
        release: which release of these images this is, from 0.
        x: (N, C, H, W) float16, float32, or int8 with `scale`; x_c, or x_t where `t` is given.
        scale: (N,) float32, the largest magnitude of each sample; value = x·scale/127. Present exactly for int8.
        labels: (N,) int32, not negative, or None.
        t: (N,) int32 in (t_cut, MAX_T], the step each sample was noised to by the device (policy `pairs`), or None.
        noise: (N, C, H, W) float16, the ε of `pairs`; present exactly when `t` is.
    """

    type_name: ClassVar[str] = "samples.v1"

    schedule_id: ScheduleId
    t_cut: Annotated[int, Field(ge=1, le=MAX_T)]
    release: Count
    x: Annotated[Array, PlainValidator(array_of(("float16", "float32", "int8"), 4))]
    scale: Annotated[npt.NDArray[np.float32] | None, optional(array_of(("float32",), 1))] = None
    labels: Labels = None
    t: Annotated[npt.NDArray[np.int32] | None, optional(array_of(("int32",), 1))] = None
    noise: Annotated[npt.NDArray[np.float16] | None, optional(array_of(("float16",), 4))] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n = self.x.shape[0]
        self._check_scale(n)
        check_labels(self.labels, n)
        self._check_pairs(n)
        return self

    def _check_scale(self, n: int) -> None:
        if (self.x.dtype == np.int8) != (self.scale is not None):
            raise ValueError("scale must be given for int8, and for int8 only")
        if self.scale is None:
            return
        if self.scale.shape[0] != n:
            raise ValueError(f"scale must have one entry per sample: {n}, not {self.scale.shape[0]}")
        if self.scale.min() < 0:
            raise ValueError("scale must not be negative")
        if self.x.min() < -127:
            raise ValueError("int8 values must lie in [-127, 127]")

    def _check_pairs(self, n: int) -> None:
        if (self.t is None) != (self.noise is None):
            raise ValueError("t and noise must be given together")
        if self.t is None or self.noise is None:
            return
        if self.t.shape[0] != n:
            raise ValueError(f"t must have one entry per sample: {n}, not {self.t.shape[0]}")
        if self.t.min() <= self.t_cut or self.t.max() > MAX_T:
            raise ValueError(f"every t must lie above t_cut and not above {MAX_T}")
        if self.noise.shape != self.x.shape:
            raise ValueError("noise must have the shape of x")

    @classmethod
    def pack(
        cls,
        x: npt.NDArray[np.floating[Any]],
        *,
        schedule_id: str,
        t_cut: int,
        release: int,
        dtype: Literal["float16", "float32", "int8"] = "float16",
        labels: npt.NDArray[np.integer[Any]] | None = None,
        t: npt.NDArray[np.integer[Any]] | None = None,
        noise: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Self:
        """Builds a message from float samples, narrowed to `dtype`.

        float16 keeps about 74 dB of a standard normal, int8 with a scale per sample about 39 dB at half the size.

        Args:
            x: (N, C, H, W) float32, finite; beyond ±65504 float16 overflows and is refused.
            schedule_id: as in the message.
            t_cut: as in the message.
            release: as in the message.
            dtype: the element type on the wire.
            labels: (N,) integers, or None.
            t: (N,) integers, or None.
            noise: (N, C, H, W) floats, or None; sent as float16.
        """
        narrow, scale = _quantise(x) if dtype == "int8" else (_narrow(x, dtype), None)
        return cls(
            schedule_id=schedule_id,
            t_cut=t_cut,
            release=release,
            x=narrow,
            scale=scale,
            labels=None if labels is None else labels.astype(np.int32),
            t=None if t is None else t.astype(np.int32),
            noise=None if noise is None else _narrow(noise, "float16").astype(np.float16, copy=False),
        )

    def dequantised(self) -> npt.NDArray[np.float32]:
        """Returns x as (N, C, H, W) float32, a new writable array; int8 becomes x·scale/127."""
        x = self.x.astype(np.float32)
        if self.scale is not None:
            x *= (self.scale / np.float32(127)).reshape(-1, 1, 1, 1)
        return x


def _narrow(x: npt.NDArray[np.floating[Any]], dtype: str) -> Array:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the message refuses with a reason
        return x.astype(dtype)


def _quantise(x: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Returns (N, C, H, W) int8 and the (N,) float32 largest magnitudes; each is off by at most scale/254."""
    if x.ndim != 4 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError("x must be a finite array (N, C, H, W) that is not empty")
    scale = np.abs(x).max(axis=(1, 2, 3)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(1)).reshape(-1, 1, 1, 1)
    return np.clip(np.rint(x / divisor * 127), -127, 127).astype(np.int8), scale


class DenoiseV1(Message):
    """A request for the server's half of the chain.

    Attributes:
        request_id: 32 hex digits; the same id is the same request, however often it arrives.
        shape: (C, H, W) of one sample; one sample has to fit in one message.
        n: how many samples, 1 to 1024. Sample i's noise is keyed by (seed, i, step).
        schedule_id: digest of the ᾱ table the plan is written for.
        plan: the steps to visit, strictly decreasing, from T to t_stop.
        sampler: how to go from one step to the next.
        eta: DDIM's stochasticity in [0, 1]; other samplers ignore it.
        clip: bound on |x̂_0|, or None for none.
        seed: 0 to 2⁶³-1.
        labels: (n,) int32, not negative, or None.
        dtype: the element type wanted for the latents.
        ttl_seconds: after this long the result is of no use, or None.
        priority: `interactive` when somebody waits, `prefetch` when a pool is being filled.
    """

    type_name: ClassVar[str] = "denoise.v1"

    request_id: RequestId
    shape: Shape
    n: Annotated[int, Field(ge=1, le=MAX_REQUEST_SAMPLES)]
    schedule_id: ScheduleId
    plan: Annotated[
        tuple[Timestep, ...], BeforeValidator(as_tuple), Field(min_length=2, max_length=MAX_PLAN_STEPS + 1)
    ]
    sampler: Sampler = "ddim"
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Annotated[float, Field(gt=0, le=1e6)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    labels: Labels = None
    dtype: Dtype = "float16"
    ttl_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] | None = None
    priority: Literal["interactive", "prefetch"] = "interactive"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(t <= s for t, s in zip(self.plan, self.plan[1:], strict=False)):
            raise ValueError("plan must be strictly decreasing")
        if math.prod(self.shape) * np.dtype(self.dtype).itemsize > MAX_BODY_BYTES - ENVELOPE_BYTES:
            raise ValueError("one sample must fit in one message")
        check_labels(self.labels, self.n)
        return self

    @property
    def t_stop(self) -> int:
        """The step at which the server hands over: the last of the plan."""
        return self.plan[-1]


class LatentsV1(Message):
    """Part of the answer to a request: samples at t_stop, sent as soon as they are done.

    Workers may cut one answer differently; an answer is whole when every sample is there.

    Attributes:
        request_id: of the request.
        part: number of this part in the order of sending, from 0.
        parts: the answer has at most so many parts.
        first: index, within the request, of this part's first sample.
        x: (k, C, H, W) float16 or float32.
        t_stop: the step the samples are at.
        schedule_id: digest of the ᾱ table.
        backbone_version: of the network that made them.
        evaluations: network calls per sample.
        step_seconds: mean seconds of one step of this request.
        queued_seconds: how long the request waited before its first step.
    """

    type_name: ClassVar[str] = "latents.v1"

    request_id: RequestId
    part: Count
    parts: Annotated[int, Field(ge=1, le=MAX_REQUEST_SAMPLES)]
    first: Annotated[int, Field(ge=0, lt=MAX_REQUEST_SAMPLES)]
    x: Annotated[Array, PlainValidator(array_of(("float16", "float32"), 4))]
    t_stop: Timestep
    schedule_id: ScheduleId
    backbone_version: Count
    evaluations: Annotated[int, Field(ge=0, le=MAX_T)]
    step_seconds: Seconds
    queued_seconds: Seconds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.part >= self.parts:
            raise ValueError(f"part must be below parts: {self.part} of {self.parts}")
        if self.first + self.x.shape[0] > MAX_REQUEST_SAMPLES:
            raise ValueError(f"a request has at most {MAX_REQUEST_SAMPLES} samples")
        return self


class FailedV1(Message):
    """The other end of a request: it will not be answered, and why.

    Attributes:
        request_id: of the request.
        reason: a stable code of lowercase letters, digits and underscores.
        detail: one line for a person, at most 500 characters.
    """

    type_name: ClassVar[str] = "failed.v1"

    request_id: RequestId
    reason: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]
    detail: Annotated[str, Field(max_length=500)]


class RoundV1(Message):
    """What the server asks of the clients.

    Attributes:
        number: of the round, rising.
        schedule_name: which table.
        schedule_T: its length.
        schedule_id: its digest.
        shape: (C, H, W) of one image.
        num_classes: how many labels there are, or None for none.
        cut_min: smallest cut ratio that will be taken.
        cut_max: largest cut ratio that will be taken.
        releases_wanted: releases per image that are still useful.
        backbone_version: the newest published.
        closes_in_seconds: how long from its arrival on the round takes releases, or None for until the next. Relative, for the
            clock of a device may be wrong.
        labels_wanted: the only labels still wanted, rising, or None for all.
    """

    type_name: ClassVar[str] = "round.v1"
    later_fields: ClassVar[frozenset[str]] = frozenset({"closes_in_seconds", "labels_wanted"})

    number: Count
    schedule_name: Literal["cosine", "linear"]
    schedule_T: Annotated[int, Field(ge=1, le=MAX_T)]  # noqa: N815  # the papers' T
    schedule_id: ScheduleId
    shape: Shape
    num_classes: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    cut_min: Annotated[float, Field(ge=0, le=1)]
    cut_max: Annotated[float, Field(ge=0, le=1)]
    releases_wanted: Count
    backbone_version: Count
    closes_in_seconds: Seconds | None = None
    labels_wanted: (
        Annotated[
            tuple[Label, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=MAX_LABELS_WANTED)
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cut_min > self.cut_max:
            raise ValueError("cut_min must not exceed cut_max")
        self._check_labels_wanted()
        return self

    def _check_labels_wanted(self) -> None:
        if self.labels_wanted is None:
            return
        if self.num_classes is None:
            raise ValueError("labels_wanted needs num_classes")
        if any(one >= other for one, other in zip(self.labels_wanted, self.labels_wanted[1:], strict=False)):
            raise ValueError("labels_wanted must be strictly rising")
        if self.labels_wanted[-1] >= self.num_classes:
            raise ValueError("labels_wanted must lie below num_classes")


class ReceiptV1(Message):
    """What the server holds of a device's batch.

    Attributes:
        batch_id: `message_id` of the samples.
        samples: how many it holds.
        duplicate: whether it held them before this delivery.
    """

    type_name: ClassVar[str] = "receipt.v1"

    batch_id: MessageId
    samples: Count
    duplicate: bool


MESSAGE_TYPES: dict[str, type[Message]] = {
    model.type_name: model for model in (SamplesV1, DenoiseV1, LatentsV1, FailedV1, RoundV1, ReceiptV1)
}
"""Every type this version understands, by its AMQP `type`."""
