"""The files, ports and environment of a private RabbitMQ node."""

import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from broker.whole_files import write_whole

DISK_FREE_LIMIT_BYTES = 10**9
"""Below this much free space the node refuses messages; RabbitMQ's own default of 50 MB is too late."""

# Below the range from which Linux takes the local ports of outgoing connections: nobody gets one of these by accident while
# the node is down, and no client that tries to reconnect to it over loopback ends up connected to itself.
_PORT_RANGE = range(20_000, 32_768)


class NodePorts(BaseModel):
    """TCP ports on 127.0.0.1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amqp: int
    management: int
    prometheus: int
    distribution: int
    epmd: int

    def all(self) -> tuple[int, ...]:
        """Returns every port."""
        return (self.amqp, self.management, self.prometheus, self.distribution, self.epmd)


def choose_ports(epmd: int | None = None) -> NodePorts:
    """Returns ports that are free now; `epmd`: the port of a mapper that runs already."""
    free: set[int] = set()
    while len(free) < len(NodePorts.model_fields):
        port = secrets.choice(_PORT_RANGE)
        if _is_free(port):
            free.add(port)
    ports = NodePorts(**dict(zip(NodePorts.model_fields, free, strict=True)))
    return ports if epmd is None else ports.model_copy(update={"epmd": epmd})


def taken_ports(ports: NodePorts) -> list[int]:
    """Returns those that somebody listens on."""
    return [port for port in ports.all() if not _is_free(port)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the node itself does: connections of its last life that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def configuration(ports: NodePorts, vhost: str, user: str, password: str) -> list[str]:
    """Returns the lines of rabbitmq.conf; user and vhost are taken up when the node starts without data."""
    return [
        f"listeners.tcp.1 = 127.0.0.1:{ports.amqp}",
        "management.tcp.ip = 127.0.0.1",
        f"management.tcp.port = {ports.management}",
        "prometheus.tcp.ip = 127.0.0.1",
        f"prometheus.tcp.port = {ports.prometheus}",
        f"default_vhost = {vhost}",
        f"default_user = {user}",
        f"default_pass = {password}",
        "default_user_tags.administrator = true",
        f"disk_free_limit.absolute = {DISK_FREE_LIMIT_BYTES}",
        f"max_message_size = {16 * 1024**2}",
        # The log that quorum queues share is kept in memory as well; half a gigabyte of it, the default, suits a server.
        f"raft.wal_max_size_bytes = {64 * 1024**2}",
    ]


def write(directory: Path, configuration: Sequence[str], plugins: Sequence[str]) -> None:
    """Writes the node's configuration files."""
    enabled = ",".join(("rabbitmq_management", "rabbitmq_prometheus", *plugins))
    write_whole(directory / "rabbitmq.conf", "\n".join(configuration) + "\n")
    write_whole(directory / "enabled_plugins", f"[{enabled}].\n")
    write_whole(directory / "rabbitmq-env.conf", "")


def environment(directory: Path, ports: NodePorts, name: str) -> dict[str, str]:
    """Returns the whole environment of the node and its epmd: ours, without what would point it to another node."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RABBITMQ_", "ERL_", "ERLANG_"))
    }
    return kept | {
        "HOME": str(directory),  # Erlang's cookie is made there
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # The script then becomes the Erlang machine instead of waiting for it: one pid, and SIGTERM is a clean stop.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def startup_log(directory: Path) -> Path:
    """Returns where the node's output goes."""
    return directory / "startup.log"


def last_line(log: Path) -> str:
    """Returns the last line of a log that says anything, at most 300 characters."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
