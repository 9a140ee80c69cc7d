"""Where the owner of a client's devices finds the broker; the file is written by `collafuse broker owner`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from broker.address import BrokerSettings
from broker.errors import ConfigError
from broker.names import owned_client
from broker.settings import ProcessSettings


class OwnerSettings(ProcessSettings):
    """The broker, as whom to log in there, and whose signature the devices believe."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_OWNER_")

    head_keys: tuple[str, ...] = Field(
        default=(), description="public keys (ed25519:...) that vouch for heads, as in the devices' settings"
    )


def client_of(broker: BrokerSettings) -> str:
    """Whose devices the user of `broker` owns. Raises ConfigError when it is nobody's owner."""
    client = owned_client(broker.user)
    if client is None:
        raise ConfigError(
            f"{broker.user!r} is not the owner of a client's devices: make one with `collafuse broker owner CLIENT --out FILE`"
        )
    return client
