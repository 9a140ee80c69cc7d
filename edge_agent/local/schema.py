"""What goes in and out of the local API; the OpenAPI document is made from these models."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edge_agent.clock import Moment
from edge_agent.generation.jobs import MAX_COUNT, MAX_HEAD_STEPS, MAX_SEED, Job, Source, State

MAX_DEADLINE_SECONDS = 30 * 86_400
JOB_ID = r"^[0-9a-f]{32}$"


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 4.0 is the integer 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_AsWhole = BeforeValidator(_whole)
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), _AsWhole]
Label = Annotated[int, Field(ge=0, lt=2**31), _AsWhole]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), _AsWhole]
Steps = Annotated[int, Field(ge=1, le=MAX_HEAD_STEPS), _AsWhole]


class ImagesRequest(BaseModel):
    """A wish for images."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="ImagesRequest")

    count: Count = Field(description="images wanted", examples=[4])
    label: Label | None = Field(default=None, description="class wanted; null for any")
    seed: Seed | None = Field(
        default=None, description="same seed, same images; drawn by the device when null"
    )
    steps: Steps | None = Field(
        default=None, description="evaluations of the head; the device's own choice when null"
    )
    budget_ms: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="milliseconds that the head may take for an image; chooses the steps when those are null",
    )
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE_SECONDS,
        allow_inf_nan=False,
        description="after so long the images are of no use; null for as long as it takes",
    )


class JobLinks(BaseModel):
    """Where the parts of a job are; `{n}` stands for an image, 0 to count - 1. Null for what is not there (yet)."""

    job: str
    events: str
    image: str | None = Field(description="finished image as PNG")
    cut: str | None = Field(description="the same image at the cut, as it was when the head began")
    steps: str | None = Field(
        description="film strip of the head's steps, from the cut to the finished image"
    )
    images_npy: str | None = Field(description="all finished images, (count, C, H, W) float32 in [-1, 1]")
    latents_npy: str | None = Field(description="all images at the cut, (count, C, H, W) float32")


class JobView(BaseModel):
    """A job as it stands."""

    model_config = ConfigDict(title="Job")

    job_id: Annotated[str, Field(pattern=JOB_ID)]
    state: State
    done: int = Field(ge=0, description="images that are finished")
    count: int = Field(ge=1, le=MAX_COUNT)
    label: int | None
    seed: int
    seeded: bool = Field(description="whether somebody chose the seed")
    steps: int | None = Field(description="evaluations of the head that were asked for")
    budget_ms: float | None = Field(description="milliseconds of the head for an image that were asked for")
    source: Source | None = Field(description="where the images at the cut come from; null until decided")
    reason: str | None = Field(description="why it ended without images, for programs")
    detail: str | None = Field(description="why it ended without images, for people")
    created_at: datetime = Field(description="by the device's clock, for people only")
    age_seconds: float = Field(ge=0)
    remaining_seconds: float | None = Field(description="until its deadline; null when it has none")
    head_seconds: float = Field(ge=0, description="how long the head has worked for it")
    frames: int | None = Field(description="pictures in the film strip of an image; null when there is none")
    links: JobLinks

    @classmethod
    def of(cls, job: Job, moment: Moment, files: frozenset[str], frames: int | None) -> Self:
        """Show a job. `files`: names in the folder of its results; `frames`: pictures in a film strip, if there is one."""
        return cls(
            job_id=job.job_id,
            state=job.state,
            done=job.done,
            count=job.count,
            label=job.label,
            seed=job.seed,
            seeded=job.seeded,
            steps=job.head_steps,
            budget_ms=job.budget_ms,
            source=job.source,
            reason=job.reason,
            detail=job.detail,
            created_at=datetime.fromtimestamp(job.created_at, UTC),
            age_seconds=round(job.age_seconds(moment), 3),
            remaining_seconds=job.remaining_seconds(moment),
            head_seconds=round(job.work_seconds, 4),
            frames=frames,
            links=_links(job.job_id, files, with_steps=frames is not None),
        )


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="give this as `before` for the jobs before these; null at the end")


class Accepted(BaseModel):
    """A job that was accepted: it will end."""

    job_id: Annotated[str, Field(pattern=JOB_ID)]
    state: State
    seed: int
    links: JobLinks


class LedgerImage(BaseModel):
    """What was released of one image."""

    image: str = Field(description="digest of the image; never the image")
    releases: int = Field(ge=1)
    t_cut: int = Field(ge=0, description="the least noise it was released with, as a step of the schedule")
    last_released_at: datetime


class Ledger(BaseModel):
    """What this device has disclosed."""

    model_config = ConfigDict(extra="allow")

    summary: dict[str, Any] = Field(
        description="images, releases, and the privacy account as far as it is kept"
    )
    images: list[LedgerImage]
    next: str | None = Field(description="give this as `after` for the images after these; null at the end")


class Status(BaseModel):
    """How the device stands; what only a running agent knows may be null."""

    model_config = ConfigDict(extra="allow")

    agent: dict[str, Any]
    link: dict[str, Any] | None
    head: dict[str, Any] | None
    outbox: dict[str, Any]
    ledger: dict[str, Any]
    jobs: dict[str, int]


class Health(BaseModel):
    """The page answers."""

    status: Literal["ok"] = "ok"


class ProblemDocument(BaseModel):
    """Why a request was not done (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str
    title: str
    status: int
    detail: str = Field(description="one sentence for people")
    reason: str = Field(description="a short code for programs")


def _links(job_id: str, files: frozenset[str], *, with_steps: bool) -> JobLinks:
    base = f"/v1/jobs/{job_id}"
    return JobLinks(
        job=base,
        events=f"{base}/events",
        image=f"{base}/images/{{n}}.png" if "00000.png" in files else None,
        cut=f"{base}/images/{{n}}/cut.png" if "latents.npy" in files else None,
        steps=f"{base}/images/{{n}}/steps.png" if with_steps else None,
        images_npy=f"{base}/images.npy" if "images.npy" in files else None,
        latents_npy=f"{base}/latents.npy" if "latents.npy" in files else None,
    )
