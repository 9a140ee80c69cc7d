"""A request for the server's half of the chain, and its two possible ends."""

import math
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from broker.contract.fields import (
    ENVELOPE_BYTES,
    MAX_BODY_BYTES,
    MAX_PLAN_STEPS,
    MAX_REQUEST_SAMPLES,
    MAX_SECONDS,
    MAX_T,
    Array,
    Count,
    Dtype,
    Labels,
    RequestId,
    Sampler,
    ScheduleId,
    Seconds,
    Shape,
    Timestep,
    array_of,
    as_tuple,
    check_labels,
)
from broker.contract.message import Message


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
