"""What is to be planned for: the fleet, its pictures, and the machines at hand. For what is not said --help shows the default."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.contract.fields import ENVELOPE_BYTES, MAX_BODY_BYTES, MAX_PLAN_STEPS, MAX_REQUEST_SAMPLES, MAX_T
from collafuse.plan.errors import refused_by
from diffusion.plan import plan
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut


class Demand(BaseModel):
    """Every number that the plan is given; whatever has no default was not measured and cannot be guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    devices: int = Field(ge=1, le=100_000_000, description="devices of the fleet")
    images_per_day: float = Field(ge=0, le=1e6, description="images that each device has made in a day")
    samples_per_day: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="images that each device releases in a day; as many as it has made if left out",
    )
    connected_share: float = Field(
        default=1.0, ge=0, le=1, description="share of the devices connected at once"
    )
    peak_factor: float = Field(
        default=3.0, ge=1, le=24, description="load of the busiest hour against that of a mean one"
    )
    hours_away: float = Field(
        default=24.0, ge=0, le=8760, description="hours for which no worker is there, and messages wait"
    )

    channels: int = Field(default=3, ge=1, le=64, description="channels of an image")
    image_size: int = Field(default=32, ge=4, le=1024, description="height and width of an image, in pixels")
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="noise schedule")
    schedule_steps: int = Field(default=1000, ge=2, le=MAX_T, description="T of that schedule")
    cut_ratio: float = Field(default=0.2, ge=0, le=1, description="the client's share of the chain")
    server_steps: int = Field(
        default=16, ge=1, le=MAX_PLAN_STEPS, description="network evaluations on the server for an image"
    )
    images_per_request: int = Field(
        default=1, ge=1, le=MAX_REQUEST_SAMPLES, description="images that one request asks for"
    )
    batch: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="images contributed at a time, of which messages are made; those of a day if left out",
    )
    release_dtype: Literal["float16", "float32", "int8"] = Field(
        default="float16", description="payload of a release"
    )
    latents_dtype: Literal["float16", "float32"] = Field(
        default="float16", description="payload of an answer"
    )
    retention_days: float = Field(
        default=365.0, ge=0.01, le=36_500, description="days for which samples are kept"
    )

    telemetry_seconds: float = Field(
        default=300.0, ge=1, le=86_400, description="how often a connected device says how it is"
    )
    round_seconds: float = Field(
        default=60.0,
        ge=0.01,
        le=2_000_000,
        description="seconds between the announcements of a round to all devices",
    )
    head_bytes: int = Field(
        default=1_000_000, ge=1, le=512 * 2**20, description="size of a head's bundle, sent to all devices"
    )
    rollout_hours: float = Field(
        default=24.0, ge=0.01, le=8760, description="hours within which a new head is to be on its way to all"
    )

    replication: Literal["1", "3", "5"] = Field(default="3", description="members of each work queue")
    node_memory_gb: float = Field(default=16.0, ge=1, le=4096, description="memory of a broker node, in GB")
    node_link_gbit: float = Field(
        default=1.0, ge=0.001, le=800, description="link of a broker node, in Gbit/s"
    )
    device_link_mbit: float = Field(default=1.0, ge=0.0001, le=1e5, description="link of a device, in Mbit/s")
    utilisation: float = Field(
        default=0.5,
        ge=0.01,
        le=1,
        description="share of its capacity at which a node or worker is run at the peak",
    )
    step_seconds: float | None = Field(
        default=None, ge=1e-6, le=3600, description="seconds of a network call of your denoise worker"
    )
    step_batch: int = Field(default=1, ge=1, le=4096, description="samples in that call")
    scrape_seconds: float = Field(
        default=15.0, ge=1, le=3600, description="seconds between Prometheus' scrapes"
    )
    metrics_days: float = Field(default=30.0, ge=0.01, le=3650, description="days for which metrics are kept")

    node_price: float | None = Field(
        default=None, ge=0, le=1e9, description="price of a broker node for a month"
    )
    worker_price: float | None = Field(
        default=None, ge=0, le=1e9, description="price of a denoise worker for a month"
    )
    storage_price: float | None = Field(
        default=None, ge=0, le=1e9, description="price of a stored GB for a month"
    )
    traffic_price: float | None = Field(
        default=None, ge=0, le=1e9, description="price of a GB sent or received"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not 0 < self.t_cut < self.schedule_steps:
            kept = "releases clean images" if self.t_cut == 0 else "leaves the server no step"
            raise ValueError(
                f"--cut-ratio: {self.cut_ratio:g} of {self.schedule_steps} steps {kept}: choose one between 0 and 1"
            )
        if math.prod(self.shape) * 4 > MAX_BODY_BYTES - ENVELOPE_BYTES:
            raise ValueError(
                f"--image-size: an image of {self.shape} does not fit into one message as float32"
            )
        if self.server_steps > self.schedule_steps - self.t_cut:
            raise ValueError(
                f"--server-steps: {self.server_steps} are more than the {self.schedule_steps - self.t_cut} steps above the cut"
            )
        return self

    @classmethod
    def of(cls, **flags: Any) -> Self:
        """A demand from the flags that were given. Raises PlanRefused, one line that names the option."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise refused_by(error) from None

    @property
    def t_cut(self) -> int:
        """The last step that the client owns."""
        return round(self.cut_ratio * self.schedule_steps)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def released_per_day(self) -> float:
        """Images that each device releases in a day."""
        return self.images_per_day if self.samples_per_day is None else self.samples_per_day

    @property
    def members(self) -> int:
        """Of each work queue."""
        return int(self.replication)

    def steps(self) -> tuple[int, ...]:
        """The steps of a request, from T to the cut."""
        cut = Cut(NoiseSchedule.named(self.schedule, self.schedule_steps), self.cut_ratio)
        return plan(cut.schedule, self.schedule_steps, cut.t_cut, self.server_steps)
