"""Credentials: what a device, a worker or an owner logs in with, as a file that only its owner can read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from broker import device_settings
from broker.address import BrokerSettings
from broker.errors import ConfigError
from broker.whole_files import write_whole


@dataclass(frozen=True)
class Credentials:
    """What a device needs to be itself; the URL holds its password, if it has one."""

    client: str
    device: str
    amqp_url: str = field(repr=False)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)
    plaintext: bool = False


def write_credentials(
    credentials: Credentials,
    path: Path,
    *,
    replace: bool = False,
    settings: Mapping[str, device_settings.Value] | None = None,
) -> None:
    """Writes a TOML file that only its owner can read: the agent's client, device and broker_url, authority and certificate.

    Args:
        credentials: of the device.
        path: of the file.
        replace: write over a file that is there.
        settings: what else the device is told, by the names of the agent's settings.

    Raises:
        ConfigError: if the file exists, or cannot be written.
    """
    # Names, the URL and PEM are free of quotes, backslashes and control characters, so that they are TOML as they stand.
    lines = [
        f'client = "{credentials.client}"',
        f'device = "{credentials.device}"',
        f'broker_url = "{credentials.amqp_url}"',
    ]
    lines += device_settings.lines(settings or {})
    lines += _link_lines(credentials.ca, credentials.certificate, credentials.key, credentials.plaintext)
    write_secret("\n".join(lines) + "\n", path, replace=replace)


def write_worker(settings: BrokerSettings, path: Path) -> None:
    """Writes a TOML file that only its owner can read, with a worker's broker_url and what else its link needs.

    Raises:
        ConfigError: if the file cannot be written.
    """
    key = None if settings.key is None else settings.key.get_secret_value()
    plaintext = settings.plaintext and not settings.tls
    lines = [f'broker_url = "{settings.url.get_secret_value()}"']
    lines += _link_lines(settings.ca, settings.certificate, key, plaintext)
    write_secret("\n".join(lines) + "\n", path, replace=True)


def write_exporter(
    settings: BrokerSettings, management_url: str, path: Path, *, node_metrics_urls: Sequence[str] = ()
) -> None:
    """Writes a TOML file that only its owner can read, with the exporter's settings: whom it asks, and as whom.

    Args:
        settings: of the exporter's user.
        management_url: of the API, without credentials; the user's are written into it.
        path: of the file.
        node_metrics_urls: where each node of the broker serves its own metrics.

    Raises:
        ConfigError: if the file cannot be written.
    """
    login = f"{settings.user}:{quote(settings.password.get_secret_value(), safe='')}"
    lines = [
        f'broker_url = "{settings.url.get_secret_value()}"',
        f'management_url = "{management_url.replace("://", f"://{login}@", 1)}"',
        f'vhost = "{settings.vhost}"',
    ]
    if node_metrics_urls:
        lines.append(f"node_metrics_urls = {json.dumps([*node_metrics_urls])}")
    lines += _link_lines(settings.ca, None, None, settings.plaintext and not settings.tls)
    write_secret("\n".join(lines) + "\n", path, replace=True)


def write_secret(text: str, path: Path, *, replace: bool) -> None:
    """Writes `text` to a file of mode 0600, as one step.

    Raises:
        ConfigError: if the file exists and is not to be replaced, or cannot be written.
    """
    try:
        write_whole(path, text, replace=replace)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already: name another file") from error
    except OSError as error:
        raise ConfigError(f"cannot write the credentials to {path}: {error.strerror}") from error


def _link_lines(ca: str | None, certificate: str | None, key: str | None, plaintext: bool) -> list[str]:
    pems = {"broker_ca": ca, "broker_certificate": certificate, "broker_key": key}
    lines = [f'{name} = """\n{pem.strip()}\n"""' for name, pem in pems.items() if pem]
    return [*lines, "broker_plaintext = true"] if plaintext else lines
