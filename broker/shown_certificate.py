"""Until when the certificate is good that the broker shows to everybody who connects."""

import datetime as dt
import socket
import ssl

from broker.address import BrokerSettings
from broker.parameters import tls_context

TIMEOUT_SECONDS = 3.0


def ends_at(settings: BrokerSettings) -> dt.datetime | None:
    """Returns until when the certificate is good that the first of the broker's nodes shows; None where it is not asked for one.

    Raises:
        OSError: if there is no connection, or the certificate is not trusted, as one that has expired.
        ConfigError: if a certificate or key of ours is of no use.
    """
    if not settings.tls:
        return None
    host, port = settings.addresses[0]
    context = tls_context(settings)
    with (
        socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as link,
    ):
        shown = link.getpeercert() or {}
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), dt.UTC)
