"""How a device is: what it runs, how its update goes, and what it has counted since it last spoke."""

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from broker.contract.fields import Count, Digest, Reason, Seconds, as_tuple
from broker.contract.heads import NAME_PATTERN, VERSION_PATTERN
from broker.contract.message import Message, Part

MAX_FIGURES = 64
MAX_BOUNDS = 64
MAX_MISSING_RANGES = 64
MAX_UPTIME_SECONDS = 100 * 365.25 * 86_400
MAX_FIGURE = 1e18

FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ShortText = Annotated[str, Field(max_length=200)]
Figure = Annotated[float, Field(ge=-MAX_FIGURE, le=MAX_FIGURE)]
UpdateState = Literal["receiving", "staged", "trial", "installed", "refused", "failed", "rolled_back"]
"""How far a bundle has come; the last four are ends."""


class HeadReport(Part):
    """The head in use.

    Attributes:
        bundle: SHA-256 of its file.
        name, version, counter: from its manifest, in whose form they are: they become labels of metrics.
        provider: where it runs.
        fallback: why it does not run where it was asked to, or None.
    """

    bundle: Digest
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    counter: Count
    provider: Literal["cpu", "cuda"]
    fallback: ShortText | None


class UpdateReport(Part):
    """The bundle that the device dealt with last.

    Attributes:
        bundle: SHA-256 of its file.
        state: how far it has come.
        reason: a stable code for why it ended without being installed, or None.
        missing: while it is received, the first pieces that are not there, as ranges: begin, end, begin, end ... (ends excluded).
        attempts: how often it was whole and its file was not what it should be.
    """

    bundle: Digest
    state: UpdateState
    reason: Reason | None
    missing: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(max_length=2 * MAX_MISSING_RANGES)]
    attempts: Count

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.missing) % 2:
            raise ValueError("missing must hold pairs")
        if any(one >= other for one, other in pairwise(self.missing)):
            raise ValueError("missing must be strictly rising")
        return self


class StepTimes(Part):
    """A histogram of the head's step times since the last report.

    Attributes:
        bounds: upper bounds of the buckets in seconds, strictly rising.
        counts: one more than bounds; the last counts what lies above them all.
        sum_seconds: of everything counted.
    """

    bounds: Annotated[tuple[Seconds, ...], BeforeValidator(as_tuple), Field(max_length=MAX_BOUNDS)]
    counts: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(max_length=MAX_BOUNDS + 1)]
    sum_seconds: Figure

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("counts must have one entry more than bounds")
        if any(one >= other for one, other in pairwise(self.bounds)):
            raise ValueError("bounds must be strictly rising")
        return self


class TelemetryV1(Message):
    """A device says how it is. It may be lost; the next one says it anew.

    Attributes:
        sequence: rises with every report of a device, over restarts too.
        interval_seconds: how often it means to report.
        uptime_seconds: how long its agent has been running.
        agent_version: of the software.
        head: what it runs, or None.
        update: the bundle it dealt with last, or None.
        counters: what it has counted in its life, by name; they survive restarts.
        gauges: how things stand now, by name.
        step_seconds: since the last report, or None when no step was made.
    """

    type_name: ClassVar[str] = "telemetry.v1"

    sequence: Count
    interval_seconds: Seconds
    uptime_seconds: Annotated[float, Field(ge=0, le=MAX_UPTIME_SECONDS)]
    agent_version: Annotated[str, Field(max_length=64)]
    head: HeadReport | None
    update: UpdateReport | None
    counters: Annotated[dict[FigureName, Count], Field(max_length=MAX_FIGURES)]
    gauges: Annotated[dict[FigureName, Figure], Field(max_length=MAX_FIGURES)]
    step_seconds: StepTimes | None
