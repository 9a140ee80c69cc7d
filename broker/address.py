"""Where the broker is, and who we are there."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from broker.errors import ConfigError

_PORTS = {"amqp": 5672, "amqps": 5671}
_FORM = "must read amqp[s]://user:password@host[:port][,host[:port]…][/vhost]"

_URL = re.compile(r"(?P<scheme>[a-z]+)://(?P<login>(?:[^/?#]*@)?)(?P<hosts>[^/?#]*)(?P<rest>.*)", re.DOTALL)

Address = tuple[str, int]
"""Host name or address, and TCP port."""


def pem_text(value: object) -> object:
    """Returns PEM text as it is, and the text of the file for a path; raises ValueError when there is none to be had."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if not isinstance(value, str | Path) or "-----BEGIN" in str(value):
        return value
    try:
        text = Path(value).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"cannot read {value}: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
    if "-----BEGIN" not in text:
        raise ValueError(f"{value} is no PEM file")
    return text


Pem = Annotated[str, BeforeValidator(pem_text)]
"""PEM text; the path of a file stands for its content."""
SecretPem = Annotated[SecretStr, BeforeValidator(pem_text)]


class BrokerSettings(BaseModel):
    """Where the broker is and who we are there.

    Attributes:
        url: `amqp[s]://user:password@host[:port][,host[:port]…][/vhost]`; percent-encode what is special in it. Several hosts
            are the nodes of one cluster, tried in turn. The password may be left out beside a certificate.
        heartbeat_seconds: after two of them without a sign of life the link counts as dead.
        connect_timeout_seconds: for one attempt, TCP, TLS and AMQP together.
        ca: PEM of the authority that signed the broker's certificate, or None for those the system trusts.
        certificate, key: PEM of ours, to log in with (SASL EXTERNAL) instead of a password.
        plaintext: allow amqp:// to another machine. Without it only this machine is spoken to unencrypted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: SecretStr
    heartbeat_seconds: int = Field(default=30, ge=1, le=3600)
    connect_timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    ca: Pem | None = None
    certificate: Pem | None = None
    key: SecretPem | None = None
    plaintext: bool = False

    @model_validator(mode="after")
    def _usable(self) -> Self:
        parts = self._parts
        if parts.scheme not in _PORTS or not parts.username or parts.query or parts.fragment:
            raise ValueError(_FORM)
        if "/" in parts.path[1:]:
            raise ValueError(f"{_FORM}, with nothing after it and any / in the vhost written %2F")
        addresses = self.addresses
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs a certificate and its key together, or neither")
        if parts.password is None and self.certificate is None:
            raise ValueError(_FORM)
        if self.certificate is not None and not self.tls:
            raise ValueError("must be amqps:// to log in with a certificate")
        far = [host for host, _ in addresses if not is_loopback(host)]
        if far and not self.tls and not self.plaintext:
            raise ValueError(
                f"would send the password and all samples to {far[0]} unencrypted: use amqps://, or allow it with"
                " broker_plaintext = true (COLLAFUSE_BROKER_PLAINTEXT=true) if the whole way is your own"
            )
        return self

    @classmethod
    def from_url(
        cls,
        url: str | SecretStr,
        *,
        ca: str | None = None,
        certificate: str | None = None,
        key: SecretStr | None = None,
        plaintext: bool = False,
    ) -> Self:
        """Returns the settings for `url`.

        Raises:
            ConfigError: if it is not a broker's URL, or may not be used so; the message does not show the password.
        """
        secret = url if isinstance(url, SecretStr) else SecretStr(url)
        try:
            return cls(url=secret, ca=ca, certificate=certificate, key=key, plaintext=plaintext)
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]
            what = "URL" if problem["loc"] in ((), ("url",)) else problem["loc"][0]
            raise ConfigError(f"the broker {what} {problem['msg'].removeprefix('Value error, ')}") from None

    @property
    def _parts(self) -> SplitResult:
        """The URL with a single name in the place of its hosts: what Python makes of several differs between its versions."""
        scheme, login, _, rest = self._pieces
        return urlsplit(f"{scheme}://{login}h{rest}")

    @property
    def _pieces(self) -> tuple[str, str, str, str]:
        """Scheme, user and password with their @, the hosts, and what follows them."""
        found = _URL.fullmatch(self.url.get_secret_value())
        if found is None:
            raise ValueError(_FORM)
        return found["scheme"], found["login"], found["hosts"], found["rest"]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every node's host and port; the port is 5672, or 5671 for amqps, unless given."""
        parts = self._parts
        found = []
        for place in self._pieces[2].split(","):
            try:
                one = urlsplit(f"//{place}")
                host, port = one.hostname, one.port
                (host or "").encode("idna")  # as looking it up does, which fails in a way of its own
            except ValueError:
                raise ValueError(_FORM) from None
            if not host or port == 0:
                raise ValueError(_FORM)
            found.append((host, port or _PORTS[parts.scheme]))
        return tuple(found)

    @property
    def host(self) -> str:
        """Host name or address, of the first node."""
        return self.addresses[0][0]

    @property
    def port(self) -> int:
        """TCP port, of the first node."""
        return self.addresses[0][1]

    @property
    def user(self) -> str:
        """AMQP user."""
        return unquote(self._parts.username or "")

    @property
    def password(self) -> SecretStr:
        """Password of the user; empty when a certificate stands for it."""
        return SecretStr(unquote(self._parts.password or ""))

    @property
    def vhost(self) -> str:
        """Virtual host; `/` unless given."""
        return unquote(self._parts.path[1:]) or "/"

    @property
    def tls(self) -> bool:
        """Whether the link is encrypted."""
        return self._parts.scheme == "amqps"

    @property
    def places(self) -> str:
        """Every node's `host:port`, with commas."""
        return ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses
        )

    def __str__(self) -> str:
        return f"{self._parts.scheme}://{self.user}@{self.places}/{self.vhost.removeprefix('/')}"


def is_loopback(host: str) -> bool:
    """Says whether a host is this machine, by its name or address alone; no name is resolved."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
