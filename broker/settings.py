"""Settings of the broker's connection, and the ground on which every process's settings stand.

Flags come before the environment, the environment before the TOML file, the file before the defaults. A key that nobody
knows is an error with the nearest known name, for a silently ignored setting is a wrong setting. Secrets never appear in a
repr or an error.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError

from broker.errors import ConfigError
from broker.local_node import find

BROKER_URL_VARIABLE = "COLLAFUSE_BROKER_URL"
NODE_DIRECTORY = Path(".collafuse/broker")
"""Where a private node lives, below the working directory, unless told otherwise."""

_PORTS = {"amqp": 5672, "amqps": 5671}


class BrokerSettings(BaseModel):
    """Where the broker is and who we are there.

    Attributes:
        url: `amqp[s]://user:password@host[:port][/vhost]`; percent-encode what is special in it.
        heartbeat_seconds: after two of them without a sign of life the link counts as dead.
        connect_timeout_seconds: for one attempt, TCP, TLS and AMQP together.
        ca_file: certificate authority for amqps, or None for the system's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    heartbeat_seconds: int = Field(default=30, ge=1, le=3600)
    connect_timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    ca_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_amqp(cls, url: SecretStr) -> SecretStr:
        form = "must read amqp[s]://user:password@host[:port][/vhost]"
        try:
            parts = urlsplit(url.get_secret_value())
            port = parts.port
        except ValueError:
            raise ValueError(form) from None
        if parts.scheme not in _PORTS or not parts.hostname or not parts.username or parts.password is None:
            raise ValueError(form)
        if port == 0 or parts.query or parts.fragment or "/" in parts.path[1:]:
            raise ValueError(f"{form}, with nothing after it and any / in the vhost written %2F")
        return url

    @classmethod
    def from_url(cls, url: str | SecretStr) -> Self:
        """Returns the settings for `url`.

        Raises:
            ConfigError: if it is not a broker's URL; the message does not show it.
        """
        secret = url if isinstance(url, SecretStr) else SecretStr(url)
        try:
            return cls(url=secret)
        except ValidationError as error:
            raise ConfigError(f"the broker URL {_reason(error.errors()[0]['msg'])}") from None

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url.get_secret_value())

    @property
    def host(self) -> str:
        """Host name or address."""
        return self._parts.hostname or ""

    @property
    def port(self) -> int:
        """TCP port; 5672, or 5671 for amqps, unless given."""
        return self._parts.port or _PORTS[self._parts.scheme]

    @property
    def user(self) -> str:
        """AMQP user."""
        return unquote(self._parts.username or "")

    @property
    def password(self) -> SecretStr:
        """Password of the user."""
        return SecretStr(unquote(self._parts.password or ""))

    @property
    def vhost(self) -> str:
        """Virtual host; `/` unless given."""
        return unquote(self._parts.path[1:]) or "/"

    @property
    def tls(self) -> bool:
        """Whether the link is encrypted."""
        return self._parts.scheme == "amqps"

    def __str__(self) -> str:
        return f"{self._parts.scheme}://{self.user}@{self.host}:{self.port}/{self.vhost.removeprefix('/')}"


class ProcessSettings(BaseSettings):
    """The frozen settings of one process; subclasses add fields and the prefix of their environment variables.

    Built with keyword arguments it reads nothing from its surroundings; `load` is what reads file and environment.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    node_directory: ClassVar[Path] = NODE_DIRECTORY

    broker_url: SecretStr | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes keyword arguments alone; `load` has merged the rest into them."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def load(cls, config_path: Path | None = None, **flags: Any) -> Self:
        """Reads the settings: flags that are not None, then the environment, then the TOML file, then the defaults.

        Args:
            config_path: a TOML file of top-level keys named like the fields, or None.
            flags: values of the command line by field name; None means not given.

        Raises:
            ConfigError: one line naming the key, where it was set, and what to do.
        """
        sources = [
            (f"{config_path}: ", cls._file(config_path)),
            ("the environment: ", cls._environment(os.environ)),
            ("the command line: ", {name: value for name, value in flags.items() if value is not None}),
        ]
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for origin, found in sources:
            values.update(found)
            origins.update(dict.fromkeys(found, origin))
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(_first_problem(error, origins)) from None

    def broker(self) -> BrokerSettings:
        """Returns where the broker is: the URL that was given, else the private node if one is running.

        Raises:
            ConfigError: if there is neither, or the URL is malformed.
        """
        return broker_settings(self.broker_url, self.node_directory)

    @classmethod
    def _file(cls, path: Path | None) -> dict[str, Any]:
        if path is None:
            return {}
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the settings in {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        for key in values:
            if key not in cls.model_fields:
                raise ConfigError(f"{path}: unknown key {key!r}{_nearest(key, cls.model_fields)}")
        return values

    @classmethod
    def _environment(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """Returns the fields that the environment sets; a name with our prefix that is no field is an error."""
        prefix = cls.model_config.get("env_prefix", "")
        known = {f"{prefix}{name}".upper(): name for name in cls.model_fields}
        for name in environment:
            if prefix and name.upper().startswith(prefix.upper()) and name.upper() not in known:
                raise ConfigError(f"unknown environment variable {name}{_nearest(name, known)}")
        try:
            found = dict(EnvSettingsSource(cls)())
        except SettingsError as error:
            raise ConfigError(f"the environment: {error}") from None
        if "broker_url" not in found and environment.get(BROKER_URL_VARIABLE):
            found["broker_url"] = environment[BROKER_URL_VARIABLE]
        return found


def broker_settings(url: SecretStr | str | None, node_directory: Path = NODE_DIRECTORY) -> BrokerSettings:
    """Returns the settings for `url`, or for the private node that runs in `node_directory` when there is no URL.

    Raises:
        ConfigError: if there is neither, or the URL is malformed.
    """
    if url is not None:
        return BrokerSettings.from_url(url)
    node = find(node_directory)
    if node is None:
        raise ConfigError(
            f"no broker: set {BROKER_URL_VARIABLE} to amqp://user:password@host:port/vhost,"
            " or start a private one with `collafuse broker node start`"
        )
    return BrokerSettings.from_url(node.amqp_url)


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(key.upper() if key.isupper() else key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(names)}"


def _first_problem(error: ValidationError, origins: Mapping[str, str]) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    origin = origins.get(str(problem["loc"][0]) if problem["loc"] else "", "")
    if problem["type"] == "missing":
        return f"{key} is not set: give it as a flag, in the environment or in the settings file"
    return f"{origin}{key}: {_reason(problem['msg'])}" if key else f"settings: {_reason(problem['msg'])}"


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")
