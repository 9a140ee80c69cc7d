"""The demo's child processes: started, watched, and all gone at the end, whatever the end is."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from collafuse.demo.errors import DemoFailed

STOP_TIMEOUT_SECONDS = 20.0
POLL_SECONDS = 0.1


@dataclass
class Child:
    """One process of the demo, with its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

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
    environment: added to this process's own.
    """

    logs: Path
    environment: dict[str, str]
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `collafuse ARGUMENTS`; it lives in a session of its own, so that ctrl-C reaches only the demo."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*_die_with_parent(), sys.executable, "-m", "collafuse", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self.environment},
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Raise DemoFailed when a process that should run has ended."""
        for child in self.children:
            if child.returncode is not None:
                raise DemoFailed(
                    f"the process {child.name} ended with exit code {child.returncode}: {child.last_line()}. "
                    f"Its whole log is {child.log}"
                )

    def finish(self, child: Child, *, on_wait: Callable[[], None] = lambda: None) -> None:
        """Wait until a process that does one job is done. Raises DemoFailed when it, or any other, fails."""
        while child.returncode is None:
            on_wait()
            time.sleep(POLL_SECONDS)
        if child.returncode == 0:
            self.children.remove(child)
        self.check()

    def stop(self, child: Child) -> None:
        """End a process politely, and after a while firmly."""
        _end([child])
        if child in self.children:
            self.children.remove(child)

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
