"""What pika needs to know to connect, made from our settings."""

import ssl
import tempfile

import pika
from pika.credentials import ExternalCredentials

from broker.address import Address, BrokerSettings
from broker.errors import ConfigError


def connection_parameters(
    settings: BrokerSettings, *, name: str, address: Address | None = None
) -> pika.ConnectionParameters:
    """Returns the parameters of one connection.

    Args:
        settings: where the broker is and as whom to log in; amqps checks the broker's certificate and host name.
        name: shown in RabbitMQ's list of connections.
        address: one of `settings.addresses`; the first if left out.

    Raises:
        ConfigError: if a certificate or key is of no use.
    """
    host, port = address or settings.addresses[0]
    return pika.ConnectionParameters(
        host=host,
        port=port,
        virtual_host=settings.vhost,
        credentials=_credentials(settings),
        heartbeat=settings.heartbeat_seconds,
        socket_timeout=settings.connect_timeout_seconds,
        stack_timeout=settings.connect_timeout_seconds,
        ssl_options=pika.SSLOptions(tls_context(settings), host) if settings.tls else None,
        client_properties={"connection_name": name},
    )


def ways(
    settings: BrokerSettings, *, name: str, blocked_timeout_seconds: float | None = None
) -> list[pika.ConnectionParameters]:
    """Returns the parameters of every node, in order, as pika's blocking connection takes them: the first that answers is it.

    Args:
        settings: of whoever connects.
        name: shown in RabbitMQ's list of connections.
        blocked_timeout_seconds: how long to wait for an alarm of the broker to end; None for ever.

    Raises:
        ConfigError: if a certificate or key is of no use.
    """
    found = [connection_parameters(settings, name=name, address=address) for address in settings.addresses]
    for parameters in found:
        parameters.blocked_connection_timeout = blocked_timeout_seconds
    return found


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """Returns the context of a TLS connection: certificate and host name of the broker are always checked.

    Raises:
        ConfigError: if a certificate or key is of no use.
    """
    try:
        context = ssl.create_default_context(cadata=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None and settings.key is not None:
            # OpenSSL reads a key from a file only: one that nobody else can open, and that is gone at once.
            with tempfile.NamedTemporaryFile("w", encoding="ascii", suffix=".pem") as chain:
                chain.write(f"{settings.certificate}\n{settings.key.get_secret_value()}\n")
                chain.flush()
                context.load_cert_chain(chain.name)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"broker_ca, broker_certificate or broker_key cannot be used: {getattr(error, 'reason', None) or error}"
        ) from None
    return context


def _credentials(settings: BrokerSettings) -> pika.PlainCredentials | ExternalCredentials:
    if settings.certificate is not None:
        return ExternalCredentials()
    return pika.PlainCredentials(settings.user, settings.password.get_secret_value())
