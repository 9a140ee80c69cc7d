"""The demo's child processes: started, watched, and all gone at the end, whatever the end is."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from collafuse.demo.errors import DemoFailed

STOP_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.1
CALM = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
"""Several processes share few cores: none of them may take all for itself."""


@dataclass
class Child:
    """One process of the demo, with its log. One that serves must run until it is stopped; the others do one job each."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    serves: bool

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.process.poll()

    def last_line(self) -> str:
        """The last line it wrote: its error message, when it failed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


@dataclass
class Processes:
    """Starts `collafuse` commands as processes of their own and ends those it started.

    logs: the folder where each one's output is kept.
    """

    logs: Path
    children: list[Child] = field(default_factory=list)

    def serve(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `collafuse ARGUMENTS` as a process that goes on until the end."""
        return self._start(name, "collafuse", arguments, serves=True)

    def start(self, name: str, arguments: Sequence[str], *, module: str = "collafuse") -> Child:
        """Start `python -m MODULE ARGUMENTS` as a process that does one job."""
        return self._start(name, module, arguments, serves=False)

    def _start(self, name: str, module: str, arguments: Sequence[str], *, serves: bool) -> Child:
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*_die_with_parent(), sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that ctrl-C reaches only the demo, which then ends them in order
                env={**os.environ, **CALM},
            )
        child = Child(name, process, log, serves)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raise DemoFailed when a process has failed, or one that serves has ended."""
        for child in self.children:
            if child.returncode is not None and (child.serves or child.returncode != 0):
                raise DemoFailed(
                    f"the process {child.name} ended with exit code {child.returncode}: {child.last_line()}. "
                    f"Its whole log is {child.log}"
                )

    def done(self, child: Child) -> bool:
        """Whether a process that does one job has done it. Raises DemoFailed when it, or any other, failed."""
        self.check()
        return child.returncode == 0

    def finish(self, children: Sequence[Child]) -> None:
        """Wait until processes that do one job each are done. Raises DemoFailed when one of them, or any other, fails."""
        waiting = list(children)
        while waiting := [child for child in waiting if not self.done(child)]:
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self.children)
        self.children.clear()


def _end(children: Sequence[Child]) -> None:
    """SIGTERM to each process group, SIGKILL to those that do not follow in time."""
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.process.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)


def _die_with_parent() -> list[str]:
    """A prefix that has the kernel end the child when this process dies without a word, where the system offers it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []
