"""Real agents in real processes, for tests that kill them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_agent.storage.state import StateDirectory
from tests.conftest import WAIT_SECONDS, wait_until

NOWHERE = "amqp://ward_one:secret@127.0.0.1:1/collafuse"
"""A broker that is not there: nothing listens on port 1."""

COMMAND = "from collafuse.cli import main; main()"

TELLING = """
    import atexit, json, os, sys
    from pathlib import Path

    def tell():
        Path(os.environ["LOADED_FILE"]).write_text(json.dumps(sorted(sys.modules)))

    atexit.register(tell)
    from collafuse.cli import main
    main()
"""

MORTAL = """
    import contextlib, os, signal
    from edge_agent.storage.spool import Spool

    plain, left = Spool.transaction, int(os.environ["COMMITS"])
    after = os.environ["WHEN"] == "after"

    @contextlib.contextmanager
    def transaction(self):
        global left
        with plain(self) as connection:
            yield connection
            left -= 1
            if left == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    Spool.transaction = transaction
    from collafuse.cli import main
    main()
"""


def environment(**extra: str) -> dict[str, str]:
    """This process's, without settings of an agent that may happen to be there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COLLAFUSE_")}
    return kept | {"OMP_NUM_THREADS": "1"} | extra


def collafuse(*arguments: object, code: str = COMMAND, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *(str(argument) for argument in arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        env=environment(**extra),
    )


def edge_json(*arguments: object) -> dict[str, Any]:
    """Run `collafuse edge … --json` and return what it printed."""
    done = collafuse("edge", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Process:
    """A command that runs in the background, with its output in `log`."""

    def __init__(self, log: Path, *arguments: object, code: str = COMMAND, **extra: str) -> None:
        self.log = log
        self._output = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *(str(argument) for argument in arguments)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment(**extra),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under an event's name."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def stop(self) -> int:
        """Ask it to end, as a service manager does."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it at once; one that has ended is left as it is."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        code = self._process.wait(30)
        self._output.close()
        return code


RunAgent = Callable[..., Process]
"""Starts an agent: (broker URL, further flags..., code=COMMAND, VARIABLE=value...)."""


@contextmanager
def running(state: StateDirectory, folder: Path, *flags: object) -> Iterator[RunAgent]:
    """Agents on one state directory, all with these flags, their logs in `folder`; killed at the end if they still run."""
    started: list[Process] = []

    def start(url: str, *further: object, code: str = COMMAND, **extra: str) -> Process:
        where = ("--state", state.path, "--broker-url", url, "--schedule-steps", 200, "--threads", 1)
        log = folder / f"agent-{len(started)}.log"
        started.append(Process(log, "edge", "run", *where, *flags, *further, code=code, **extra))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()


def ready(agent: Process) -> Process:
    """The same agent, once it has started."""
    wait_until(lambda: bool(agent.events("agent_started")) or agent.exit_code is not None, "the agent starts")
    assert agent.exit_code is None, agent.log.read_text()
    return agent
