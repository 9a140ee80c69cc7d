"""What pika needs to know to connect, made from our settings."""

import ssl

import pika

from broker.settings import BrokerSettings


def connection_parameters(settings: BrokerSettings, *, name: str) -> pika.ConnectionParameters:
    """Returns the parameters of one connection.

    Args:
        settings: where the broker is and as whom to log in; amqps checks the broker's certificate and host name.
        name: shown in RabbitMQ's list of connections.
    """
    tls = None
    if settings.tls:
        context = ssl.create_default_context(cafile=settings.ca_file and str(settings.ca_file))
        tls = pika.SSLOptions(context, settings.host)
    return pika.ConnectionParameters(
        host=settings.host,
        port=settings.port,
        virtual_host=settings.vhost,
        credentials=pika.PlainCredentials(settings.user, settings.password.get_secret_value()),
        heartbeat=settings.heartbeat_seconds,
        socket_timeout=settings.connect_timeout_seconds,
        stack_timeout=settings.connect_timeout_seconds,
        ssl_options=tls,
        client_properties={"connection_name": name},
    )
