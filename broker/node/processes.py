"""Operating-system processes that outlive the command that started them, and are never mistaken for others.

A pid alone names whoever got the number last, so a process is remembered with its start time and recognised by both.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.errors import NodeError

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessId:
    """A process: its pid, and its start in clock ticks after boot."""

    pid: int
    started_ticks: int


def spawn(command: Sequence[str], environment: Mapping[str, str], output: Path) -> ProcessId:
    """Starts `command` in a session of its own, so that neither ctrl-C nor our end reaches it.

    Args:
        command: program and arguments.
        environment: the whole environment of the process.
        output: where its stdout and stderr are appended; its folder is the working directory, where Erlang leaves crash dumps.

    Raises:
        NodeError: if the program cannot be run.
    """
    try:
        with output.open("ab") as stream:
            process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=output.parent,
            )
    except OSError as error:
        raise NodeError(f"cannot run {command[0]}: {error.strerror}") from error
    stat = _stat(process.pid)
    process.returncode = 0  # we reap it ourselves, or its next parent does; Popen must not warn
    return ProcessId(process.pid, 0 if stat is None else stat.started_ticks)


def alive(process: ProcessId) -> bool:
    """Says whether this very process runs; a zombie does not."""
    _reap(process.pid)
    stat = _stat(process.pid)
    return stat is not None and stat.started_ticks == process.started_ticks and stat.state not in "ZX"


def descendants(process: ProcessId) -> list[ProcessId]:
    """Returns the processes that run below `process` now; each may have made itself a session of its own."""
    children: dict[int, list[ProcessId]] = {}
    for entry in Path("/proc").iterdir():
        stat = _stat(int(entry.name)) if entry.name.isdigit() else None
        if stat is not None:
            children.setdefault(stat.parent, []).append(ProcessId(int(entry.name), stat.started_ticks))
    found: list[ProcessId] = []
    waiting = [process]
    while waiting:
        below = children.get(waiting.pop().pid, [])
        found.extend(below)
        waiting.extend(below)
    return found


def end(process: ProcessId, *, signal_number: signal.Signals, timeout_seconds: float) -> bool:
    """Signals the process if it is still the one we started, and waits for it; returns whether it is gone."""
    if not alive(process):
        return True
    try:
        os.kill(process.pid, signal_number)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise NodeError(f"process {process.pid} belongs to another user: stop it as that user") from error
    return wait_until(lambda: not alive(process), timeout_seconds)


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Polls `condition` until it holds or the time is over; returns whether it held."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    started_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything; the fields after its last parenthesis are numbered from 3 in proc(5).
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], parent=int(fields[1]), started_ticks=int(fields[19]))


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # not our child: whoever started it has gone, and init reaps
