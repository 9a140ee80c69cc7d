"""A real agent in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent import clock, status
from edge_agent.generation import jobs, pool
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import wait_until

START_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class RunningAgent:
    """`collafuse edge run`, seen through its process and its spool."""

    pid: int
    state: StateDirectory
    spool: Spool

    @property
    def connected(self) -> bool:
        """Whether its link to the broker stands."""
        return bool((status.noted(self.spool).get("link") or {}).get("connected"))

    def cpu_seconds(self) -> float:
        """What it has computed, in user and in system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def stock(self) -> int:
        """Samples at the cut that it has in its pool."""
        return sum(shelf.images for shelf in pool.stock(self.spool))

    def picture_seconds(self, seed: int) -> float:
        """From the acceptance of a job for one image, of whatever noise, to its picture on disk."""
        begun = time.perf_counter()
        job_id = jobs.accept(
            self.spool, count=1, label=None, seed=seed, ttl_seconds=None, moment=clock.now(), seeded=False
        )
        folder = self.state.results(job_id)
        while not list(folder.glob("*.png")):
            if time.perf_counter() - begun > START_SECONDS:
                raise TimeoutError(f"the job {job_id} has no picture after {START_SECONDS:g} s")
            time.sleep(0.001)
        return time.perf_counter() - begun


@contextmanager
def running_agent(root: Path, url: str, head: Path, options: Sequence[str] = ()) -> Iterator[RunningAgent]:
    """An agent with its head loaded and its link up; ended when the block is.

    options: of `collafuse edge run`, beside those of the benchmark.
    """
    state = StateDirectory(root)
    command = [sys.executable, "-m", "collafuse", "edge", "run", "--state", str(root), "--head", str(head)]
    command += ["--provider", "cpu", "--threads", "1", "--api-port", "0", "--log-level", "error", *options]
    # As an integrator starts it: nothing of this benchmark's own settings.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("COLLAFUSE_", "OMP_"))
    }
    process = subprocess.Popen(command, env=environment | {"COLLAFUSE_BROKER_URL": url})
    try:
        wait_until(state.spool.exists, "the agent has a spool", START_SECONDS)
        with Spool(state.spool) as spool:
            agent = RunningAgent(process.pid, state, spool)
            wait_until(lambda: _is_ready(agent), "the agent is connected and has its head", START_SECONDS)
            yield agent
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(agent: RunningAgent) -> bool:
    head = status.noted(agent.spool).get("head") or {}
    return agent.connected and head.get("identity") is not None
