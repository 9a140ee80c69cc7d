"""A `collafuse` process that is killed and started again, as a supervisor would."""

import os
import signal
import subprocess
import sys
from pathlib import Path


class Process:
    """One command and all its lives; `log` gathers what each of them wrote.

    exits: how its lives ended that nobody here ended, with the last line of the log.
    """

    def __init__(self, name: str, log: Path, *arguments: object) -> None:
        self.name = name
        self.log = log
        self.lives = 0
        self.exits: list[str] = []
        self._command = [sys.executable, "-m", "collafuse", *(str(argument) for argument in arguments)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a life, unless one goes on."""
        if self._process is not None:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "PYTHONFAULTHANDLER": "1",
                },
            )
        self.lives += 1

    def kill(self) -> None:
        """kill -9."""
        self.watch()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, timeout_seconds: float = 180.0) -> None:
        """Ask it to end; an end that is not clean counts among `exits`."""
        self.watch()
        if self._process is None:
            return
        self._process.terminate()
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # leaves the stacks of its threads in the log
            code = self._process.wait()
        if code != 0:
            self._note(code)
        self._process = None

    def watch(self) -> None:
        """Note it when the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._note(self._process.returncode)
            self._process = None

    def _note(self, code: int) -> None:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        self.exits.append(f"{self.name} ended with {code}: {lines[-1] if lines else 'it wrote nothing'}")
