"""What an agent costs its device: memory, start, idle time, a picture, and a step of the head against eager torch.

python -m benchmarks.edge [--quick] [--json]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.devices import a_node, make_devices
from benchmarks.edge_agents import RunningAgent, running_agent
from benchmarks.engine_loads import NETWORK
from benchmarks.heads import DEMO, SCHEDULE, bundle, network
from benchmarks.report import Result, alone, emit, say, spread
from broker.node.local_node import LocalNode
from broker.settings import BrokerSettings
from diffusion.network import UNet
from edge_agent.fleet.memory import pss_bytes, rss_bytes
from edge_agent.heads.head import Head
from export.bundle.keys import PrivateKey
from monitoring import logs
from tests.conftest import wait_until
from tests.edge_agent.server import Server

MEMORY_BYTES = 120e6
IMPORT_SECONDS = 1.0
PICTURE_SECONDS = 0.5
IDLE_PERCENT = 0.5
STEP_RATIO = 2.0
HEAD_STEPS = 4
STOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    agents: int
    settle_seconds: float
    imports: int
    idle_seconds: float
    pictures: int
    step_rounds: int


FULL = Effort(agents=3, settle_seconds=10, imports=7, idle_seconds=30, pictures=30, step_rounds=7)
QUICK = Effort(agents=1, settle_seconds=4, imports=3, idle_seconds=8, pictures=8, step_rounds=3)


def at_most(name: str, unit: str, values: Sequence[float], limit: float) -> Result:
    """A figure that was promised to stay below a limit: the median, and how often it would fit into the limit."""
    own = statistics.median(values)
    return Result(name, unit, own, "the promise, at most", limit, limit / max(own, 1e-9), 1.0, spread(values))


@dataclass(eq=False)
class Idle:
    """What idle agents took: megabytes and percents of a core, a figure for each."""

    settle_seconds: float
    rss: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)
    percent: list[float] = field(default_factory=list)

    def look(self, agent: RunningAgent, seconds: float) -> None:
        """Let an agent settle, and look at it, for so long at what it computes."""
        time.sleep(self.settle_seconds)
        self.rss.append(rss_bytes(agent.pid) / 1e6)
        self.pss.append(pss_bytes(agent.pid) / 1e6)
        if not seconds:
            return
        begun, before = time.monotonic(), agent.cpu_seconds()
        time.sleep(seconds)
        self.percent.append(100 * (agent.cpu_seconds() - before) / (time.monotonic() - begun))


def at_rest(urls: Sequence[str], scratch: Path, head: Path, effort: Effort) -> list[Result]:
    """Memory and computing time of an agent that has nothing to do, as it comes, and with less and with more."""
    idle = Idle(effort.settle_seconds)
    for number, url in enumerate(urls):
        say(f"agent {number + 1} of {len(urls)}: {effort.settle_seconds:g} s to settle")
        with running_agent(scratch / f"idle-{number}", url, head) as agent:
            idle.look(agent, effort.idle_seconds)
    key = PrivateKey.generate()
    say("an agent without its page, and one with a signed head")
    bare, signed = Idle(effort.settle_seconds), Idle(effort.settle_seconds)
    with running_agent(scratch / "bare", urls[0], head, ["--no-api"]) as agent:
        bare.look(agent, 0)
    trusted = bundle(network(DEMO), scratch / "signed.bundle", client="client-0", key=key)
    with running_agent(scratch / "signed", urls[0], trusted, ["--head-keys", key.public.text]) as agent:
        signed.look(agent, 0)
    return [
        at_most("memory of an idle agent with a loaded head, resident", "MB", idle.rss, MEMORY_BYTES / 1e6),
        alone("the same, shared pages divided", "MB", idle.pss),
        alone("without the local page (--no-api), resident", "MB", bare.rss),
        alone("with its owner's keys and a signed head, resident", "MB", signed.rss),
        at_most("computing of an idle, connected agent", "% of a core", idle.percent, IDLE_PERCENT),
    ]


def from_stock(local: LocalNode, url: str, scratch: Path, head: Path, effort: Effort) -> list[Result]:
    """Pictures from the pool: a server fills it, the broker is killed, and every job takes what is in stock.

    The first picture is a warm-up.
    """
    node = local.status().info
    assert node is not None
    count = effort.pictures
    options = ["--head-steps", str(HEAD_STEPS), "--pool-images", str(count + 1)]
    with running_agent(scratch / "stock", url, head, options) as agent:
        say(f"filling a stock of {count + 1} images")
        with Server(BrokerSettings.from_url(node.amqp_url), SCHEDULE):
            wait_until(lambda: agent.stock > count, "the stock is full", STOCK_SECONDS)
        local.kill()
        wait_until(lambda: not agent.connected, "the agent has noticed", 60)
        pictures = [1e3 * agent.picture_seconds(seed) for seed in range(count + 1)][1:]
        if agent.stock:
            raise RuntimeError(f"{agent.stock} images are left in stock: something else answered")
        after = Idle(effort.settle_seconds + 10)  # after that an agent puts its head to rest
        after.look(agent, 0)
    return [
        at_most(
            f"a picture from the stock without the broker, {HEAD_STEPS} steps of the demo's head, to the file",
            "ms",
            pictures,
            PICTURE_SECONDS * 1e3,
        ),
        alone(f"memory after {count + 1} pictures, resident", "MB", after.rss),
    ]


def imports(count: int) -> list[float]:
    """Seconds that a fresh interpreter takes to import everything of an agent's process."""
    program = (
        "import time; b = time.perf_counter(); import edge_agent.process; print(time.perf_counter() - b)"
    )
    seconds = []
    for _ in range(count + 1):
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        seconds.append(float(done.stdout))
    return seconds[1:]


def steps(name: str, made: UNet, head: Head, rounds: int) -> Result:
    """A network call at batch 1: onnxruntime against eager torch, in turn, one thread each."""
    shape = (1, *head.manifest.image_shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    t, label = np.array([100]), np.zeros(1, np.int64)
    tensors = (torch.from_numpy(x), torch.from_numpy(t), torch.from_numpy(label))
    labelled = made.config.num_classes is not None

    def eager() -> None:
        with torch.inference_mode():
            made(*tensors) if labelled else made(*tensors[:2])

    def onnx() -> None:
        head.predict(x, t, label)

    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_milliseconds(onnx))
        theirs.append(_milliseconds(eager))
    own, other = statistics.median(ours), statistics.median(theirs)
    return Result(
        f"a step of {name}, batch 1",
        "ms",
        own,
        "eager torch, same weights and threads",
        other,
        other / own,
        STEP_RATIO,
        spread(ours),
    )


def _milliseconds(call: Callable[[], None], seconds: float = 0.6) -> float:
    """The middle duration of a call over a while, after some to warm up."""
    for _ in range(5):
        call()
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(found)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The footprint of an agent against what was promised, and onnxruntime against eager torch."""
    logs.configure("benchmark", level="warning")
    effort = QUICK if quick else FULL
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        say("exporting two heads")
        demo, larger = network(DEMO), network(NETWORK)
        demo_head = bundle(demo, Path(scratch) / "demo.bundle")
        larger_head = bundle(larger, Path(scratch) / "larger.bundle")
        say("steps")
        results = [
            steps("the demo's head", demo, Head.load(demo_head, "cpu", threads=1), effort.step_rounds),
            steps("a U-Net of 1.07 M", larger, Head.load(larger_head, "cpu", threads=1), effort.step_rounds),
        ]
        say("imports")
        results.append(at_most("importing the agent", "s", imports(effort.imports), IMPORT_SECONDS))
        with a_node() as local:
            node = local.status().info
            assert node is not None
            urls, _ = make_devices(node, effort.agents)
            place = Path(scratch)
            resting = at_rest(urls, place, demo_head, effort)
            results = [*resting, *from_stock(local, urls[0], place, demo_head, effort), *results]
    emit("edge", results, as_json=as_json, quick=quick, torch=torch.__version__)
    if any(result.missed for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
