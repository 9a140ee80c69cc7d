"""What an edge agent can be told: flags before environment (`COLLAFUSE_EDGE_…`) before a TOML file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from broker.settings import ProcessSettings


def _listed(value: Any) -> Any:
    """A list in a file, or words parted by commas in a variable or a flag."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], NoDecode, BeforeValidator(_listed)]


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

    epsilon_budget: float | None = Field(
        default=None,
        gt=0,
        description="largest epsilon that the releases of one image may add up to; none for no bound",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="delta at which epsilon is stated")

    head: Path | None = Field(
        default=None, description="the head bundle that finishes pictures on this device"
    )
    head_keys: Names = Field(
        default=(),
        description="public keys whose signature a head must bear (ed25519:...); without any, only --head is taken",
    )
    trial_images: int = Field(
        default=20, ge=1, le=100_000, description="images after which a delivered head is believed"
    )
    trial_seconds: float = Field(
        default=600, gt=0, le=30 * 86_400, description="running time after which it is believed without them"
    )
    provider: Literal["auto", "cuda", "cpu"] = Field(default="auto", description="where the head runs")
    provider_fallback: Literal["error", "cpu"] = Field(
        default="error", description="what to do when the provider asked for is not there"
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, description="threads of the head; all cores if not given"
    )

    server_steps: int = Field(default=16, ge=1, le=10_000, description="network evaluations on the server")
    head_steps: int = Field(default=4, ge=1, le=10_000, description="network evaluations on this device")
    budget_ms: float | None = Field(
        default=None, gt=0, description="milliseconds that the head may take for an image; chooses head_steps"
    )
    budget_joules: float | None = Field(
        default=None, gt=0, description="energy that the head may take for an image; chooses head_steps"
    )
    power_watts: float | None = Field(
        default=None,
        gt=0,
        description="what this device draws while it computes, where it cannot be measured",
    )
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

    pool_images: int = Field(
        default=0, ge=0, le=4096, description="images per label kept at the cut, to be finished offline"
    )
    pool_labels: Numbers = Field(
        default=(), description="labels to keep in stock, such as 0,1,2; without any, images without a label"
    )
    pool_refill: float = Field(
        default=0.5, ge=0, le=1, description="share of the stock below which it is filled up again"
    )
    pool_versions: int = Field(
        default=3,
        ge=0,
        description="versions that the backbone may be ahead of the stock before it is renewed",
    )
    pool_use: Literal["offline", "always"] = Field(
        default="always", description="when images without a given seed are made from the stock"
    )

    outbox_max_bytes: int = Field(
        default=256 * 2**20, ge=2**20, description="quota of messages waiting for the broker"
    )
    inbox_max_bytes: int = Field(
        default=256 * 2**20, ge=2**20, description="quota of latents and heads that came and are not used yet"
    )
    results_max_bytes: int = Field(
        default=1024 * 2**20, ge=2**20, description="quota of finished pictures; the oldest go first"
    )
    results_keep_days: float = Field(
        default=30, gt=0, description="days for which finished pictures and ended jobs are kept"
    )
    reask_seconds: float = Field(
        default=1800,
        ge=1,
        description="connected for so long without an answer, the device asks the server again",
    )

    windows: Names = Field(
        default=(), description="times of day at which to connect, such as 02:00-05:00; none for always"
    )
    bytes_per_second: int | None = Field(
        default=None, ge=1024, description="cap of what is sent to the broker; none for no cap"
    )
    metered: bool = Field(
        default=False,
        description="the link costs by the byte: contributions, stock, telemetry and heads wait, requests for images go",
    )
    telemetry_seconds: float = Field(
        default=300, ge=1, le=86_400, description="how often the device says how it is"
    )

    api: bool = Field(default=True, description="serve the local page and its API")
    api_port: int = Field(
        default=8480, ge=0, le=65_535, description="port of the local page; 0 for any free one"
    )
    api_address: str = Field(default="127.0.0.1", description="interface of the local page")
    api_token: SecretStr | None = Field(
        default=None, description="token that the local page asks for; needed beyond the loopback interface"
    )
    api_port_file: Path | None = Field(default=None, description="write the page's real port to this file")
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="port of /metrics; 0 for any free one")
    metrics_address: str = Field(default="127.0.0.1", description="interface of /metrics")
    metrics_port_file: Path | None = Field(
        default=None, description="write the real metrics port to this file"
    )
