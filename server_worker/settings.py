"""What a server worker can be told: flags before environment (`COLLAFUSE_TRAIN_…`, `COLLAFUSE_DENOISE_…`) before a TOML file."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from broker.contract.fields import MAX_SECONDS
from broker.errors import ConfigError
from broker.settings import ProcessSettings

BLOCK_SAMPLES = 16
"""Samples whose steps and noise are drawn together; a rank's share of a batch is a whole number of such blocks."""


def _check_batch(batch_size: int, ranks: int) -> None:
    if ranks > 1 and batch_size % BLOCK_SAMPLES:
        raise ValueError(
            f"with {ranks} ranks the batch_size of each has to be a multiple of {BLOCK_SAMPLES}, not {batch_size}"
        )


def _listed(value: Any) -> Any:
    """`1,2,2`, as a flag gives it, is a list of numbers."""
    return value.split(",") if isinstance(value, str) else value


class WorkerSettings(ProcessSettings):
    """What both kinds of worker have in common."""

    broker_url: SecretStr | None = Field(default=None, description="amqp[s]://user:password@host:port/vhost")
    storage: str = Field(
        default=".collafuse/server", description="a directory, or any URL that fsspec understands"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the network runs; auto prefers a GPU"
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="CPU threads of the network; torch's default if not given"
    )
    connect_timeout_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="how long to wait for the broker at start"
    )
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="port of /metrics; 0 for any free one")
    metrics_address: str = Field(default="127.0.0.1", description="interface of /metrics")
    metrics_port_file: Path | None = Field(
        default=None, description="write the real metrics port to this file"
    )


class TrainSettings(WorkerSettings):
    """The settings of a train worker, frozen; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_TRAIN_")

    schedule: Literal["cosine", "linear"] = Field(
        default="cosine", description="noise schedule of the federation"
    )
    schedule_steps: int = Field(default=1000, ge=2, le=100_000, description="T of that schedule")
    channels: int = Field(default=3, ge=1, le=64, description="channels of an image")
    image_size: int = Field(default=32, ge=4, le=1024, description="height and width of an image, in pixels")
    num_classes: int | None = Field(
        default=None, ge=1, le=100_000, description="labels are 0 to this, less one; none: no labels"
    )
    cut_min: float = Field(default=0.0, ge=0, le=1, description="smallest cut ratio that is taken")
    cut_max: float = Field(default=1.0, ge=0, le=1, description="largest cut ratio that is taken")
    releases_wanted: int = Field(
        default=1, ge=0, le=1_000_000, description="releases per image that clients are asked for"
    )
    samples_wanted: int | None = Field(
        default=None, ge=1, description="clients are asked for no more once so many samples are stored"
    )
    samples_per_label: int | None = Field(
        default=None, ge=1, description="so many samples of each label are wanted; the rest is not asked for"
    )

    base_channels: int = Field(
        default=64, ge=8, le=1024, multiple_of=8, description="width of the network's first level"
    )
    channel_multipliers: Annotated[tuple[int, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(1, 2, 2),
        min_length=1,
        description="width of each level as a multiple of the first, with commas",
    )
    blocks_per_level: int = Field(default=2, ge=1, le=8, description="residual blocks of each level")
    attention: bool = Field(default=True, description="self-attention at the lowest level")

    steps: int | None = Field(default=None, ge=0, description="optimiser steps in all; none: for ever")
    exit_when_done: bool = Field(
        default=False, description="exit after the last step instead of going on ingesting"
    )
    min_samples: int = Field(default=256, ge=1, description="training starts once so many samples are stored")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="samples of one optimiser step")
    lr: float = Field(default=2e-4, gt=0, le=1, description="AdamW's learning rate after the warm-up")
    lr_final: float = Field(
        default=0.1, ge=0, le=1, description="share of lr left at the last of `steps`, by a cosine"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the network's arithmetic; bfloat16 is for GPUs"
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's weight decay")
    warmup_steps: int = Field(
        default=100, ge=0, description="steps over which the learning rate rises from 0"
    )
    gradient_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this L2 norm")
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="decay of the weights' moving average")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of initial weights, draws and noise")

    held_out_share: float = Field(
        default=0.02, ge=0, le=0.5, description="part of the samples kept from training, to judge versions by"
    )
    ranks: int = Field(default=1, ge=1, le=1024, description="processes that train together on this machine")
    max_restarts: int = Field(
        default=10, ge=0, description="so often the ranks start again when one of them dies"
    )

    checkpoint_steps: int = Field(default=500, ge=1, description="steps between checkpoints")
    publish_steps: int = Field(default=1000, ge=1, description="steps between published versions")
    versions_kept: int = Field(
        default=20, ge=1, description="so many of the newest versions stay in the storage"
    )
    round_seconds: float = Field(
        default=60.0,
        gt=0,
        le=2_000_000,  # an announcement lives twice as long, and RabbitMQ takes less than 2³² ms
        description="seconds between round announcements",
    )
    round_closes_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_SECONDS,
        description="a round takes releases for so long; none: until the next",
    )
    ingest_prefetch: int = Field(default=16, ge=1, le=1024, description="sample messages in hand at a time")
    cache_bytes: int = Field(default=2**30, ge=0, description="memory for stored tensors that are not mapped")
    store_max_bytes: int | None = Field(
        default=None, ge=1, description="with so much stored, nothing more is taken; none: the disk's size"
    )
    client_max_bytes: int | None = Field(
        default=None, ge=1, description="a client's batches are refused above so much; none: no limit"
    )
    retention_days: float | None = Field(
        default=None, gt=0, description="batches stored longer ago are erased; none: never"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.samples_per_label is not None and self.num_classes is None:
            raise ValueError("samples_per_label counts labels: set num_classes too")
        _check_batch(self.batch_size, self.ranks)
        if self.cut_min > self.cut_max:
            raise ValueError(
                f"cut_min {self.cut_min} is above cut_max {self.cut_max}: no release could be taken"
            )
        if round(self.cut_min * self.schedule_steps) >= self.schedule_steps:
            raise ValueError(f"cut_min {self.cut_min} leaves the server no step to train: lower it")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return (self.channels, self.image_size, self.image_size)


def check_batch(settings: TrainSettings, ranks: int) -> None:
    """Raise ConfigError unless the batch can be that of each of so many ranks, however they were started."""
    try:
        _check_batch(settings.batch_size, ranks)
    except ValueError as error:
        raise ConfigError(str(error)) from None


class DenoiseSettings(WorkerSettings):
    """The settings of a denoise worker, frozen; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_DENOISE_")

    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="samples in one network call, at most; if not given, what the warm-up finds best",
    )
    prefetch_share: float = Field(
        default=0.125, ge=0, lt=1, description="part of the work that is prefetch's while any waits"
    )
    interactive_slowdown: float = Field(
        default=1.5,
        ge=1,
        le=100,
        description="prefetch may make a step with interactive samples so many times slower",
    )
    requests_in_hand: int = Field(
        default=32, ge=1, le=4096, description="requests taken from each queue at a time"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the network's arithmetic"
    )
    compile: bool = Field(
        default=False,
        description="compile the network for a few batch sizes; on a GPU, with CUDA graphs. Slower to start",
    )
    step_limit_seconds: float = Field(
        default=120.0,
        gt=0,
        description="a step that takes longer is stuck: the process exits with code 70",
    )
    follow: Literal["latest", "best"] = Field(
        default="latest", description="which version to serve: the newest, or the best on held-out releases"
    )
    part_bytes: int = Field(default=2**20, ge=1024, le=4 * 2**20, description="largest part of an answer")
    poll_seconds: float = Field(default=1.0, gt=0, description="seconds between looks for a new version")
    drain_seconds: float = Field(
        default=30.0, ge=0, description="after SIGTERM, so long may running requests take to finish"
    )
