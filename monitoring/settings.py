"""What the exporter can be told: flags before environment (`COLLAFUSE_MONITOR_…`) before a TOML file."""

from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from broker.settings import ProcessSettings


class MonitorSettings(ProcessSettings):
    """The settings of the exporter, frozen; unknown keys are refused."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_MONITOR_")

    management_url: SecretStr | None = Field(default=None, description="http[s]://user:password@host:port")
    vhost: str = Field(default="collafuse", min_length=1, description="the federation's virtual host")
    address: str = Field(default="127.0.0.1", description="the interface that /metrics is served on")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=9419, description="0 for any free port")

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

    def management(self) -> tuple[str, str, SecretStr] | None:
        """The management API's address without credentials, the user and the password; None when not given."""
        if self.management_url is None:
            return None
        parts = urlsplit(self.management_url.get_secret_value())
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return address, unquote(parts.username or ""), SecretStr(unquote(parts.password or ""))
