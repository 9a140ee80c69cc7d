"""What is known of a private RabbitMQ node: what its directory remembers, and what others may know of a running one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.errors import NodeError
from broker.node.files import NodePorts
from broker.node.processes import ProcessId
from broker.whole_files import write_whole

LOOPBACK = "127.0.0.1"
VHOST = "collafuse"


class NodeInfo(BaseModel):
    """A running private node; its password and URL are kept out of its repr.

    Attributes:
        directory: absolute, everything the node has.
        ports: all on 127.0.0.1.
        user: administrator of the node.
        password: of that user.
        vhost: the federation's.
        pid: of the Erlang machine.
        epmd_pid: of its port mapper, None when that is another node's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path
    ports: NodePorts
    user: str
    password: str = Field(repr=False)
    vhost: str
    pid: int
    epmd_pid: int | None

    @property
    def amqp_url(self) -> str:
        """The administrator's AMQP URL; holds the password."""
        return f"amqp://{self.user}:{self.password}@{LOOPBACK}:{self.ports.amqp}/{self.vhost}"

    @property
    def management_url(self) -> str:
        """Root of the management API and page, without credentials."""
        return f"http://{LOOPBACK}:{self.ports.management}"

    @property
    def prometheus_url(self) -> str:
        """RabbitMQ's own metrics."""
        return f"http://{LOOPBACK}:{self.ports.prometheus}/metrics"


@dataclass(frozen=True)
class NodeStatus:
    """How a private node is.

    Attributes:
        state: `absent` was never started here, `crashed` ended without being stopped.
        info: of a running node, else None.
    """

    state: Literal["absent", "stopped", "running", "crashed"]
    info: NodeInfo | None = None


class NodeRecord(BaseModel):
    """What node.json remembers: credentials and ports for good, processes while they are meant to run."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ports: NodePorts
    user: str
    password: str
    node: ProcessId | None = None
    epmd: ProcessId | None = None

    def info(self, directory: Path) -> NodeInfo:
        """Returns what others may know of the node, which runs."""
        assert self.node is not None
        return NodeInfo(
            directory=directory,
            ports=self.ports,
            user=self.user,
            password=self.password,
            vhost=VHOST,
            pid=self.node.pid,
            epmd_pid=None if self.epmd is None else self.epmd.pid,
        )


def record_path(directory: Path) -> Path:
    """Returns where a node's directory keeps its record."""
    return directory / "node.json"


def read(directory: Path) -> NodeRecord | None:
    """Returns the record of a node's directory, None before the first start.

    Raises:
        NodeError: if it cannot be read, or is no record.
    """
    path = record_path(directory)
    try:
        return NodeRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise NodeError(
            f"{path} is not a private node's record: stop what runs there, then delete the directory"
        ) from error


def write(directory: Path, record: NodeRecord) -> None:
    """Keeps the record, as one step."""
    write_whole(record_path(directory), record.model_dump_json(indent=2))
