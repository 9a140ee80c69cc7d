"""A private RabbitMQ node: the real broker as an ordinary child process, disturbing no other.

Everything it has is below one directory (data, logs, cookie, passwords), it listens on loopback alone, on ports of its own,
and it registers with an epmd of its own. It outlives the command that started it; `stop` ends exactly what `start` began.
"""

import contextlib
import fcntl
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker import node_files
from broker.errors import NodeError
from broker.node_files import NodePorts
from broker.node_probe import is_ready, listens
from broker.node_processes import ProcessId, alive, descendants, end, spawn, wait_until

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The script itself: the wrapper in /usr/sbin changes user and directory."""
VHOST = "collafuse"
USER = "admin"
START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 60.0

_LOOPBACK = "127.0.0.1"

Progress = Callable[[str], None]


class NodeInfo(BaseModel):
    """A running private node; its password and URL are kept out of its repr.

    Attributes:
        directory: absolute, everything the node has.
        ports: all on 127.0.0.1.
        user: administrator of the node.
        password: of that user.
        vhost: the federation's.
        pid: of the Erlang machine.
        epmd_pid: of its port mapper.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path
    ports: NodePorts
    user: str
    password: str = Field(repr=False)
    vhost: str
    pid: int
    epmd_pid: int

    @property
    def amqp_url(self) -> str:
        """The administrator's AMQP URL; holds the password."""
        return f"amqp://{self.user}:{self.password}@{_LOOPBACK}:{self.ports.amqp}/{self.vhost}"

    @property
    def management_url(self) -> str:
        """Root of the management API and page, without credentials."""
        return f"http://{_LOOPBACK}:{self.ports.management}"

    @property
    def prometheus_url(self) -> str:
        """RabbitMQ's own metrics."""
        return f"http://{_LOOPBACK}:{self.ports.prometheus}/metrics"


@dataclass(frozen=True)
class NodeStatus:
    """How a private node is.

    Attributes:
        state: `absent` was never started here, `crashed` ended without being stopped.
        info: of a running node, else None.
    """

    state: Literal["absent", "stopped", "running", "crashed"]
    info: NodeInfo | None = None


class _Record(BaseModel):
    """What node.json remembers: credentials and ports for good, processes while they are meant to run."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ports: NodePorts
    user: str
    password: str
    node: ProcessId | None = None
    epmd: ProcessId | None = None


def find(directory: Path) -> NodeInfo | None:
    """Returns the private node that runs in `directory`, or None.

    Raises:
        NodeError: if the directory's record cannot be read.
    """
    return LocalNode(directory).status().info


class LocalNode:
    """The private node of one directory, running or not.

    Args:
        directory: made when the node starts; readable by its owner alone.
        server: the script that runs RabbitMQ.
    """

    def __init__(self, directory: Path, server: Path = SERVER) -> None:
        self.directory = directory.absolute()
        self._server = server
        self._record_path = self.directory / "node.json"

    def status(self) -> NodeStatus:
        """Says whether the node runs."""
        record = self._read()
        if record is None:
            return NodeStatus("absent")
        if record.node is None or record.epmd is None:
            return NodeStatus("stopped" if record.node is None and record.epmd is None else "crashed")
        if not alive(record.node):
            return NodeStatus("crashed")
        return NodeStatus("running", self._info(record, record.node, record.epmd))

    def start(
        self,
        progress: Progress = lambda _: None,
        *,
        new_ports: bool = False,
        timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> NodeInfo:
        """Starts the node, or finds it running, and returns when it takes connections.

        Data, password and ports are those of the last time.

        Args:
            progress: is told, in a few words, what is being waited for.
            new_ports: choose other ports than the last time's; what was given the old URL has to be told.
            timeout_seconds: for the node to become ready.

        Raises:
            NodeError: if RabbitMQ is not installed, a port is taken, or the node does not come up.
        """
        epmd = self._installed()
        self._make_directory()
        with self._locked():
            status = self.status()
            if status.info is not None:
                return status.info
            record = self._read()
            if record is not None and record.epmd is not None:
                end(record.epmd, signal_number=signal.SIGTERM, timeout_seconds=STOP_TIMEOUT_SECONDS)
            record = self._prepare(record, new_ports=new_ports)
            node_files.write(self.directory, record.ports, VHOST, record.user, record.password)
            try:
                return self._launch(record, epmd, progress, timeout_seconds)
            except BaseException:  # an interrupt too must leave no process behind
                self._end_all(signal.SIGKILL, timeout_seconds=STOP_TIMEOUT_SECONDS)
                raise

    def stop(self, *, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> bool:
        """Stops the node and its epmd, keeping the data; returns whether there was anything to stop.

        Raises:
            NodeError: if a process does not end in time.
        """
        if not self._record_path.exists():
            return False
        with self._locked():
            return self._end_all(signal.SIGTERM, timeout_seconds=timeout_seconds)

    def kill(self, *, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Kills the node as a power cut would, leaving its record stale.

        Raises:
            NodeError: if a process does not end in time.
        """
        record = self._read()
        for process in () if record is None else (record.node, record.epmd):
            if process is not None:
                _end(process, signal.SIGKILL, timeout_seconds)

    def _installed(self) -> str:
        epmd = shutil.which("epmd")
        if not self._server.is_file() or epmd is None:
            missing = "epmd" if self._server.is_file() else str(self._server)
            raise NodeError(
                f"RabbitMQ is not installed here ({missing} is missing): apt-get install rabbitmq-server,"
                " or give the URL of a broker that runs elsewhere"
            )
        return epmd

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NodeError(f"cannot make the node's directory {self.directory}: {error.strerror}") from error
        free_bytes = shutil.disk_usage(self.directory).free
        if free_bytes < 2 * node_files.DISK_FREE_LIMIT_BYTES:
            raise NodeError(
                f"only {free_bytes // 10**6} MB are free at {self.directory}: the node would soon refuse messages,"
                f" free at least {2 * node_files.DISK_FREE_LIMIT_BYTES // 10**6} MB"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps two commands from starting or stopping the same node at once."""
        try:
            with (self.directory / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except PermissionError as error:
            raise NodeError(f"the node in {self.directory} belongs to another user: {error}") from error

    def _prepare(self, record: _Record | None, *, new_ports: bool) -> _Record:
        """Returns the record of a node about to start, its ports known to be free."""
        if record is None:
            return _Record(ports=node_files.choose_ports(), user=USER, password=secrets.token_urlsafe(24))
        ports = node_files.choose_ports() if new_ports else record.ports
        taken = node_files.taken_ports(ports)
        if taken:
            raise NodeError(
                f"port {taken[0]} of the node in {self.directory} is in use by another process: end that,"
                " or let the node choose others with `collafuse broker node start --new-ports`"
            )
        return _Record(ports=ports, user=record.user, password=record.password)

    def _launch(self, record: _Record, epmd: str, progress: Progress, timeout_seconds: float) -> NodeInfo:
        environment = node_files.environment(self.directory, record.ports)
        log = node_files.startup_log(self.directory)
        log.write_bytes(b"")
        progress("starting the port mapper")
        epmd_command = (epmd, "-address", _LOOPBACK, "-port", str(record.ports.epmd))
        epmd_process = spawn(epmd_command, environment, self.directory / "epmd.log")
        record = record.model_copy(update={"epmd": epmd_process})
        self._write(record)
        if not wait_until(lambda: listens(record.ports.epmd) or not alive(epmd_process), timeout_seconds):
            raise NodeError(f"epmd did not come up; its output is in {self.directory / 'epmd.log'}")
        progress("booting RabbitMQ")
        node_process = spawn((str(self._server),), environment, log)
        record = record.model_copy(update={"node": node_process})
        self._write(record)
        ready = wait_until(
            lambda: is_ready(record.ports, VHOST, record.user, record.password) or not alive(node_process),
            timeout_seconds,
        )
        if not ready or not alive(node_process):
            what = "ended while starting" if ready else f"was not ready after {timeout_seconds:g} s"
            raise NodeError(f"RabbitMQ {what}: {node_files.last_line(log)!r}; the whole log is {log}")
        return self._info(record, node_process, epmd_process)

    def _end_all(self, signal_number: signal.Signals, *, timeout_seconds: float) -> bool:
        record = self._read()
        if record is None:
            return False
        processes = [process for process in (record.node, record.epmd) if process is not None]
        running = [process for process in processes if alive(process)]
        for process in running:  # the node before its epmd
            _end(process, signal_number, timeout_seconds)
        self._write(record.model_copy(update={"node": None, "epmd": None}))
        return bool(running)

    def _info(self, record: _Record, node: ProcessId, epmd: ProcessId) -> NodeInfo:
        return NodeInfo(
            directory=self.directory,
            ports=record.ports,
            user=record.user,
            password=record.password,
            vhost=VHOST,
            pid=node.pid,
            epmd_pid=epmd.pid,
        )

    def _read(self) -> _Record | None:
        try:
            return _Record.model_validate_json(self._record_path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NodeError(f"cannot read {self._record_path}: {error.strerror}") from error
        except ValidationError as error:
            raise NodeError(
                f"{self._record_path} is not a private node's record: stop what runs there, then delete the directory"
            ) from error

    def _write(self, record: _Record) -> None:
        node_files.write_private(self._record_path, record.model_dump_json(indent=2))


def _end(process: ProcessId, signal_number: signal.Signals, timeout_seconds: float) -> None:
    """Ends a process of ours and its helpers, which leave by themselves once they see it gone."""
    helpers = descendants(process) if alive(process) else []
    if not end(process, signal_number=signal_number, timeout_seconds=timeout_seconds):
        raise NodeError(f"process {process.pid} did not end within {timeout_seconds:g} s: kill it")
    wait_until(lambda: not any(alive(helper) for helper in helpers), timeout_seconds=5.0)
    for helper in helpers:
        if not end(helper, signal_number=signal.SIGKILL, timeout_seconds=timeout_seconds):
            raise NodeError(
                f"process {helper.pid} of the node did not end within {timeout_seconds:g} s: kill it"
            )
