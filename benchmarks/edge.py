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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.devices import a_node, make_devices
from benchmarks.edge_agents import RunningAgent, bundle, network, running_agent
from benchmarks.engine_loads import NETWORK
from benchmarks.report import Result, emit, say, spread
from broker.node.local_node import LocalNode
from collafuse.demo.design import Design
from diffusion.network import UNet, UNetConfig
from edge_agent.fleet.memory import pss_bytes, rss_bytes
from edge_agent.heads.head import Head
from monitoring import logs
from tests.conftest import wait_until

DESIGN = Design()
DEMO = UNetConfig(
    in_channels=1,
    image_size=8,
    base_channels=DESIGN.head.base_channels,
    channel_multipliers=(1, 2),
    num_classes=DESIGN.num_classes,
)
MEMORY_BYTES = 120e6
IMPORT_SECONDS = 1.0
PICTURE_SECONDS = 0.5
IDLE_PERCENT = 0.5
STEP_RATIO = 2.0
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    agents: int
    imports: int
    idle_seconds: float
    pictures: int
    step_rounds: int


FULL = Effort(agents=3, imports=7, idle_seconds=30, pictures=30, step_rounds=7)
QUICK = Effort(agents=1, imports=3, idle_seconds=10, pictures=8, step_rounds=3)


def at_most(name: str, unit: str, values: Sequence[float], limit: float) -> Result:
    """A figure that was promised to stay below a limit: the median, and how often it would fit into the limit."""
    own = statistics.median(values)
    return Result(name, unit, own, "the promise, at most", limit, limit / max(own, 1e-9), 1.0, spread(values))


def at_rest(local: LocalNode, head: Path, effort: Effort) -> list[Result]:
    """Memory and computing time of an agent that has nothing to do, and a picture when the broker is gone."""
    node = local.status().info
    assert node is not None
    urls, _ = make_devices(node, effort.agents)
    rss: list[float] = []
    pss: list[float] = []
    idle: list[float] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, ExitStack() as agents:
        for number, url in enumerate(urls):
            say(f"agent {number + 1} of {effort.agents}: {SETTLE_SECONDS:g} s to settle")
            way = running_agent(Path(scratch) / str(number), url, head, DESIGN.head_steps)
            if number + 1 < effort.agents:
                with way as agent:
                    _look_at(agent, effort, rss, pss, idle)
                continue
            last = agents.enter_context(way)
            _look_at(last, effort, rss, pss, idle)
            pictures = pictures_offline(local, last, effort.pictures)
    return [
        at_most("memory of an idle agent with a loaded head, resident", "MB", rss, MEMORY_BYTES / 1e6),
        Result(
            "the same, shared pages divided",
            "MB",
            statistics.median(pss),
            None,
            None,
            None,
            None,
            spread(pss),
        ),
        at_most("computing of an idle, connected agent", "% of a core", idle, IDLE_PERCENT),
        at_most(
            f"a picture without the broker, {DESIGN.head_steps} steps of the demo's head, to the file",
            "ms",
            pictures,
            PICTURE_SECONDS * 1e3,
        ),
    ]


def _look_at(
    agent: RunningAgent, effort: Effort, rss: list[float], pss: list[float], idle: list[float]
) -> None:
    time.sleep(SETTLE_SECONDS)
    rss.append(rss_bytes(agent.pid) / 1e6)
    pss.append(pss_bytes(agent.pid) / 1e6)
    begun, before = time.monotonic(), agent.cpu_seconds()
    time.sleep(effort.idle_seconds)
    idle.append(100 * (agent.cpu_seconds() - before) / (time.monotonic() - begun))


def pictures_offline(local: LocalNode, agent: RunningAgent, count: int) -> list[float]:
    """Milliseconds from accepting a job to its picture, with the broker killed; the first is a warm-up."""
    local.kill()
    wait_until(lambda: not agent.connected, "the agent has noticed", 60)
    return [1e3 * agent.picture_seconds(seed) for seed in range(count + 1)][1:]


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
    t, label = np.array([500]), np.zeros(1, np.int64)
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
            results = at_rest(local, demo_head, effort) + results
    emit("edge", results, as_json=as_json, quick=quick, torch=torch.__version__)
    if any(result.missed for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
