"""What an edge agent can be told: flags before environment (`COLLAFUSE_EDGE_…`) before a TOML file."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from broker.settings import ProcessSettings


class EdgeSettings(ProcessSettings):
    """The settings of one device, frozen; unknown keys are refused.

    `collafuse broker enroll` writes a TOML file with `client`, `device` and `broker_url`; the rest may be added to it.
    """

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_EDGE_")

    client: str | None = Field(default=None, description="the client that owns this device")
    device: str | None = Field(default=None, description="the device's name within its client")
    broker_url: SecretStr | None = Field(default=None, description="amqp[s]://user:password@host:port/vhost")
    state: Path = Field(
        default=Path(".collafuse/edge"), description="the directory in which everything is kept"
    )

    schedule: Literal["cosine", "linear"] = Field(
        default="cosine", description="noise schedule of the federation"
    )
    schedule_steps: int = Field(default=1000, ge=1, le=100_000, description="T of that schedule")
    cut_ratio: float = Field(default=0.2, ge=0, le=1, description="the client's share of the chain")

    release_dtype: Literal["float16", "float32", "int8"] = Field(
        default="float16", description="payload of a release"
    )
    releases: int = Field(
        default=1, ge=1, le=1000, description="how often one image may be released in its life"
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest L2 norm of an image before its release"
    )
    noise_floor: float = Field(
        default=0.0,
        ge=0,
        description="least standard deviation of a release's noise; below it nothing is released",
    )

    head: Path | None = Field(
        default=None, description="the head bundle that finishes pictures on this device"
    )
    provider: Literal["auto", "cuda", "cpu"] = Field(default="auto", description="where the head runs")
    threads: int | None = Field(
        default=None, ge=1, le=256, description="threads of the head; all cores if not given"
    )

    server_steps: int = Field(default=16, ge=1, le=10_000, description="network evaluations on the server")
    head_steps: int = Field(default=4, ge=1, le=10_000, description="network evaluations on this device")
    sampler: Literal["ddim", "ddpm", "dpmpp2m"] = Field(default="ddim", description="sampler of both halves")
    spacing: Literal["uniform", "log_snr"] = Field(
        default="uniform", description="how steps are spread over time"
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="share of fresh noise in a DDIM step")
    clip: float | None = Field(
        default=1.0, gt=0, description="bound of the predicted clean image; none to leave it"
    )
    latents_dtype: Literal["float16", "float32"] = Field(
        default="float16", description="payload of the server's answer"
    )

    outbox_max_bytes: int = Field(
        default=256 * 2**20, ge=2**20, description="quota of messages waiting for the broker"
    )
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="port of /metrics; 0 for any free one")
    metrics_address: str = Field(default="127.0.0.1", description="interface of /metrics")
    metrics_port_file: Path | None = Field(
        default=None, description="write the real metrics port to this file"
    )
