"""Whether a private RabbitMQ node is ready: it is asked, never waited for blindly."""

import base64
import http.client
import socket

from broker.node.files import NodePorts

_LOOPBACK = "127.0.0.1"
_PROBE_SECONDS = 2.0


def is_ready(ports: NodePorts, vhost: str, user: str, password: str) -> bool:
    """Says whether the node takes AMQP connections, answers its API for the vhost, and shows its metrics."""
    return (
        _speaks_amqp(ports.amqp)
        and listens(ports.prometheus)
        and _has_vhost(ports.management, vhost, user, password)
    )


def listens(port: int) -> bool:
    """Says whether somebody takes connections on a port of 127.0.0.1."""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _speaks_amqp(port: int) -> bool:
    """Offers AMQP 0-9-1 and expects the method frame, on channel 0, with which a broker begins."""
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=_PROBE_SECONDS) as link:
            link.settimeout(_PROBE_SECONDS)
            link.sendall(b"AMQP\x00\x00\x09\x01")
            return link.recv(3) == b"\x01\x00\x00"
    except OSError:
        return False


def _has_vhost(port: int, vhost: str, user: str, password: str) -> bool:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    link = http.client.HTTPConnection(_LOOPBACK, port, timeout=_PROBE_SECONDS)
    try:
        link.request("GET", f"/api/vhosts/{vhost}", headers={"Authorization": f"Basic {token}"})
        return link.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()
