"""A real agent in a process of its own, and the heads that the benchmarks of the device run."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from collafuse.demo.design import Design
from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from edge_agent import clock, status
from edge_agent.generation import jobs, pool
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.keys import PrivateKey
from export.checkpoint import HeadMetadata, save_checkpoint
from export.head_export import Issue, export_head
from tests.conftest import wait_until

DESIGN = Design()
DEMO = UNetConfig(
    in_channels=1,
    image_size=8,
    base_channels=DESIGN.head.base_channels,
    channel_multipliers=(1, 2),
    num_classes=DESIGN.num_classes,
)
SCHEDULE = NoiseSchedule.cosine(1000)
T_CUT = SCHEDULE.T // 5
"""The share of the chain that an agent takes unless it is told otherwise."""
START_SECONDS = 60.0


def network(config: UNetConfig) -> UNet:
    """Random weights: speed does not depend on what they are, and an untouched network would end in zeros."""
    torch.manual_seed(0)
    made = UNet(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made.eval().requires_grad_(requires_grad=False)


def bundle(
    made: UNet, path: Path, *, client: str = "bench", counter: int = 1, key: PrivateKey | None = None
) -> Path:
    """Export a network as the head of a client, for the device's share of the chain, signed by `key` or by nobody."""
    facts = HeadMetadata(
        unet=made.config.to_dict(),
        schedule_name=SCHEDULE.name,
        schedule_T=SCHEDULE.T,
        schedule_id=SCHEDULE.schedule_id,
        t_cut=T_CUT,
        client=client,
        labels=tuple(f"class {number}" for number in range(made.config.num_classes or 0)),
        steps=1,
        batch_size=1,
        images=1,
        learning_rate=1e-3,
        seed=0,
        seconds=0.1,
        loss=1.0,
        loss_curve=((1, 1.0),),
    )
    checkpoint = path.with_suffix(".safetensors")
    save_checkpoint(checkpoint, made, facts)
    export_head(checkpoint, path, issue=Issue(counter=counter), key=key)
    return path


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
