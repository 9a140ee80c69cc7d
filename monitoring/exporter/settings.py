"""What the exporter can be told: flags before environment (`COLLAFUSE_MONITOR_…`) before a TOML file."""

from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from broker.settings import ProcessSettings
from monitoring.exporter.fleet.fleet import DEVICE_EXPIRES_SECONDS, DEVICE_SERIES_MAX, DEVICES_MAX, Fleet


def _listed(value: Any) -> Any:
    """A list in a file, or words parted by commas in a variable or a flag."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return tuple(value) if isinstance(value, list) else value


class MonitorSettings(ProcessSettings):
    """The settings of the exporter, frozen; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_MONITOR_")

    management_url: SecretStr | None = Field(default=None, description="http[s]://user:password@host:port")
    node_metrics_urls: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=(),
        description="http[s]://host:15692 of every node of the cluster: RabbitMQ's own metrics, for the inboxes",
    )
    vhost: str = Field(default="collafuse", min_length=1, description="the federation's virtual host")
    address: str = Field(default="127.0.0.1", description="the interface that /metrics is served on")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=9419, description="0 for any free port")
    devices_max: int = Field(
        default=DEVICES_MAX,
        ge=1,
        description="devices known at a time; beyond, who was heard of longest ago goes",
    )
    device_series_max: int = Field(
        default=DEVICE_SERIES_MAX,
        ge=0,
        description="devices with series of their own, eleven each; 0 for none",
    )
    device_expires_seconds: float = Field(
        default=DEVICE_EXPIRES_SECONDS, gt=0, description="a device not heard of for so long is forgotten"
    )

    @field_validator("management_url")
    @classmethod
    def _is_http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url.get_secret_value())
            whole = parts.scheme in {"http", "https"} and parts.hostname and parts.username and parts.password
        except ValueError:
            whole = None
        if not whole:
            raise ValueError("must read http[s]://user:password@host[:port]")
        return url

    @field_validator("node_metrics_urls")
    @classmethod
    def _are_http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            try:
                parts = urlsplit(url)
                whole = parts.scheme in {"http", "https"} and parts.hostname and parts.username is None
            except ValueError:
                whole = False
            if not whole:
                raise ValueError("must read http[s]://host[:port], one for each node, parted by commas")
        return urls

    def fleet(self) -> Fleet:
        """The picture of the fleet, empty, within these bounds."""
        return Fleet(
            devices_max=self.devices_max,
            device_series_max=self.device_series_max,
            device_expires_seconds=self.device_expires_seconds,
        )

    @property
    def hears_devices(self) -> bool:
        """Whether there is a link on which devices are heard: that of a broker_url, or of the private node."""
        return self.broker_url is not None or self.management_url is None

    def management(self) -> tuple[str, str, SecretStr] | None:
        """The management API's address without credentials, the user and the password; None when not given."""
        if self.management_url is None:
            return None
        parts = urlsplit(self.management_url.get_secret_value())
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return address, unquote(parts.username or ""), SecretStr(unquote(parts.password or ""))
