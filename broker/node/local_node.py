"""A private RabbitMQ node: the real broker as an ordinary child process, disturbing no other.

Everything it has is below one directory (data, logs, cookie, passwords), it listens on loopback alone, on ports of its own,
and it registers with an epmd of its own. It outlives the command that started it; `stop` ends exactly what `start` began.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broker.errors import NodeError
from broker.node import files as node_files
from broker.node import record as node_record
from broker.node.probe import is_ready, listens
from broker.node.processes import ProcessId, alive, descendants, end, spawn, wait_until
from broker.node.record import LOOPBACK, VHOST, NodeInfo, NodeRecord, NodeStatus
from broker.whole_files import write_whole

__all__ = ["LocalNode", "NodeInfo", "NodeStatus", "find", "server_script"]

RABBITMQ_VARIABLE = "COLLAFUSE_RABBITMQ"
"""Names the folder of another RabbitMQ's `rabbitmq-server` and `rabbitmqctl`, if not the distribution's shall run."""
RABBITMQ = Path("/usr/lib/rabbitmq/bin")
"""The scripts themselves: the wrappers in /usr/sbin change user and directory."""
USER = "admin"
START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 60.0

Progress = Callable[[str], None]


def server_script() -> Path:
    """Returns the script that runs RabbitMQ here."""
    return Path(os.environ.get(RABBITMQ_VARIABLE) or RABBITMQ) / "rabbitmq-server"


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
        server: the script that runs RabbitMQ, `rabbitmqctl` beside it.
        config: more lines for rabbitmq.conf; they count from the next start on.
        plugins: more plugins to enable.
        name: the node's, before the @; nodes of one cluster have different ones.
        beside: a running node with which this one may cluster: they share cookie, port mapper and administrator.
    """

    def __init__(
        self,
        directory: Path,
        server: Path | None = None,
        *,
        config: Sequence[str] = (),
        plugins: Sequence[str] = (),
        name: str = "collafuse",
        beside: NodeInfo | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.name = f"{name}@localhost"
        self._server = server or server_script()
        self._config = tuple(config)
        self._plugins = tuple(plugins)
        self._beside = beside

    def status(self) -> NodeStatus:
        """Says whether the node runs."""
        record = node_record.read(self.directory)
        if record is None:
            return NodeStatus("absent")
        if record.node is None:
            return NodeStatus("stopped" if record.epmd is None else "crashed")
        if not alive(record.node):
            return NodeStatus("crashed")
        return NodeStatus("running", record.info(self.directory))

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
            record = self._prepare(node_record.read(self.directory), new_ports=new_ports)
            self._write_files(record)
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
        if not node_record.record_path(self.directory).exists():
            return False
        with self._locked():
            return self._end_all(signal.SIGTERM, timeout_seconds=timeout_seconds)

    def kill(self, *, port_mapper: bool = True, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Kills the node as a power cut would, leaving its record stale.

        Args:
            port_mapper: kill its epmd too, as a power cut would; companions in a cluster need it alive.
            timeout_seconds: for the processes to end.

        Raises:
            NodeError: if a process does not end in time.
        """
        record = node_record.read(self.directory)
        for process in () if record is None else (record.node, record.epmd if port_mapper else None):
            if process is not None:
                _end(process, signal.SIGKILL, timeout_seconds)

    def control(self, *arguments: str, timeout_seconds: float = START_TIMEOUT_SECONDS) -> str:
        """Runs `rabbitmqctl` on the node and returns what it prints.

        Raises:
            NodeError: if the node was never started here, or the command fails.
        """
        record = node_record.read(self.directory)
        if record is None:
            raise NodeError(f"no node was ever started in {self.directory}")
        command = (str(self._server.with_name("rabbitmqctl")), "-q", *arguments)
        try:
            done = subprocess.run(
                command,
                env=self._environment(record),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NodeError(f"cannot run {' '.join(command)}: {error}") from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())[:300]
            raise NodeError(f"{' '.join(command)} failed: {said}")
        return done.stdout

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

    def _prepare(self, record: NodeRecord | None, *, new_ports: bool) -> NodeRecord:
        """Returns the record of a node about to start, its ports known to be free."""
        beside = self._beside
        epmd = None if beside is None else beside.ports.epmd
        if record is None:
            return NodeRecord(
                ports=node_files.choose_ports(epmd),
                user=beside.user if beside else USER,
                password=beside.password if beside else secrets.token_urlsafe(24),
            )
        left_epmd = record.epmd if record.epmd is not None and alive(record.epmd) else None
        if left_epmd is not None and new_ports:
            end(left_epmd, signal_number=signal.SIGTERM, timeout_seconds=STOP_TIMEOUT_SECONDS)
            left_epmd = None
        ports = node_files.choose_ports(epmd) if new_ports else record.ports
        mapped = None if epmd is None and left_epmd is None else ports.epmd
        taken = [port for port in node_files.taken_ports(ports) if port != mapped]
        if taken:
            raise NodeError(
                f"port {taken[0]} of the node in {self.directory} is in use by another process: end that,"
                " or let the node choose others with `collafuse broker node start --new-ports`"
            )
        return NodeRecord(ports=ports, user=record.user, password=record.password, epmd=left_epmd)

    def _write_files(self, record: NodeRecord) -> None:
        lines = node_files.configuration(record.ports, VHOST, record.user, record.password)
        node_files.write(self.directory, [*lines, *self._config], self._plugins)
        if self._beside is not None:
            cookie = (self._beside.directory / ".erlang.cookie").read_text(encoding="ascii")
            write_whole(self.directory / ".erlang.cookie", cookie)

    def _environment(self, record: NodeRecord) -> dict[str, str]:
        return node_files.environment(self.directory, record.ports, self.name)

    def _launch(self, record: NodeRecord, epmd: str, progress: Progress, timeout_seconds: float) -> NodeInfo:
        log = node_files.startup_log(self.directory)
        log.write_bytes(b"")
        if self._beside is None and record.epmd is None:
            progress("starting the port mapper")
            record = record.model_copy(update={"epmd": self._start_epmd(record, epmd, timeout_seconds)})
        progress("booting RabbitMQ")
        node_process = spawn((str(self._server),), self._environment(record), log)
        record = record.model_copy(update={"node": node_process})
        node_record.write(self.directory, record)
        ready = wait_until(
            lambda: is_ready(record.ports, VHOST, record.user, record.password) or not alive(node_process),
            timeout_seconds,
        )
        if not ready or not alive(node_process):
            what = "ended while starting" if ready else f"was not ready after {timeout_seconds:g} s"
            raise NodeError(f"RabbitMQ {what}: {node_files.last_line(log)!r}; the whole log is {log}")
        return record.info(self.directory)

    def _start_epmd(self, record: NodeRecord, epmd: str, timeout_seconds: float) -> ProcessId:
        output = self.directory / "epmd.log"
        command = (epmd, "-address", LOOPBACK, "-port", str(record.ports.epmd))
        process = spawn(command, self._environment(record), output)
        node_record.write(self.directory, record.model_copy(update={"epmd": process}))
        if not wait_until(lambda: listens(record.ports.epmd) or not alive(process), timeout_seconds):
            raise NodeError(f"epmd did not come up; its output is in {output}")
        return process

    def _end_all(self, signal_number: signal.Signals, *, timeout_seconds: float) -> bool:
        record = node_record.read(self.directory)
        if record is None:
            return False
        processes = [process for process in (record.node, record.epmd) if process is not None]
        running = [process for process in processes if alive(process)]
        for process in running:  # the node before its epmd
            _end(process, signal_number, timeout_seconds)
        node_record.write(self.directory, record.model_copy(update={"node": None, "epmd": None}))
        return bool(running)


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
