"""The ground on which every process's settings stand, and how each of them finds the broker.

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

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError

from broker.address import BrokerSettings, Pem, SecretPem
from broker.errors import ConfigError
from broker.parameters import tls_context

__all__ = [
    "BROKER_URL_VARIABLE",
    "NODE_DIRECTORY",
    "BrokerSettings",
    "ProcessSettings",
    "broker_settings",
]

BROKER_URL_VARIABLE = "COLLAFUSE_BROKER_URL"
NODE_DIRECTORY = Path(".collafuse/broker")
"""Where a private node lives, below the working directory, unless told otherwise."""

_SHARED = {
    "COLLAFUSE_BROKER_URL": "broker_url",
    "COLLAFUSE_BROKER_CA": "broker_ca",
    "COLLAFUSE_BROKER_CERTIFICATE": "broker_certificate",
    "COLLAFUSE_BROKER_KEY": "broker_key",
    "COLLAFUSE_BROKER_PLAINTEXT": "broker_plaintext",
}
"""Environment variable → field, of what is the same for every process on a machine."""


class ProcessSettings(BaseSettings):
    """The frozen settings of one process; subclasses add fields and the prefix of their environment variables.

    Built with keyword arguments it reads nothing from its surroundings; `load` is what reads file and environment.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    node_directory: ClassVar[Path] = NODE_DIRECTORY

    broker_url: SecretStr | None = Field(default=None, description="amqp[s]://user:password@host:port/vhost")
    broker_ca: Pem | None = Field(
        default=None, description="PEM, or its file, of the authority that signed the broker's certificate"
    )
    broker_certificate: Pem | None = Field(
        default=None, description="PEM, or its file, of the certificate to log in with"
    )
    broker_key: SecretPem | None = Field(
        default=None, description="PEM, or its file, of that certificate's key"
    )
    broker_plaintext: bool = Field(default=False, description="allow an unencrypted link to another machine")

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
            ConfigError: if there is neither, the URL is malformed, or a certificate or key is of no use.
        """
        if self.broker_url is None:
            return _private_node(self.node_directory, "give --config FILE with the credentials, set")
        settings = BrokerSettings.from_url(
            self.broker_url,
            ca=self.broker_ca,
            certificate=self.broker_certificate,
            key=self.broker_key,
            plaintext=self.broker_plaintext,
        )
        if settings.tls:
            tls_context(settings)  # what is of no use is told now, and not at every attempt to connect
        return settings

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
        shared = {
            name: environment[variable] for variable, name in _SHARED.items() if environment.get(variable)
        }
        return shared | found


def broker_settings(url: SecretStr | str | None, node_directory: Path = NODE_DIRECTORY) -> BrokerSettings:
    """Returns the settings for `url`, or for the private node that runs in `node_directory` when there is no URL.

    What else a link needs (authority, certificate, leave to go unencrypted) comes from the environment.

    Raises:
        ConfigError: if there is neither, or the URL is malformed.
    """
    if url is None:
        return _private_node(node_directory)
    return ProcessSettings.load(broker_url=url).broker()


def _private_node(directory: Path, or_else: str = "set") -> BrokerSettings:
    # Whoever is told a URL, such as a device, has no use for the means to run a broker.
    from broker.node.ending import how_to_find_a_broker  # noqa: PLC0415
    from broker.node.local_node import find  # noqa: PLC0415

    node = find(directory)
    if node is None:
        to_name_one = f"{or_else} {BROKER_URL_VARIABLE} to amqp[s]://user:password@host:port/vhost"
        raise ConfigError(f"no broker: {how_to_find_a_broker(directory, to_name_one)}")
    return BrokerSettings.from_url(node.amqp_url)


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    # An option leaves out the unit that its setting has: --round is round_seconds.
    begun = [name for name in names if name.startswith(f"{key}_")]
    close = begun[:1] or difflib.get_close_matches(
        key.upper() if key.isupper() else key, names, n=1, cutoff=0.5
    )
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
