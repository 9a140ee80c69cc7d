"""The train worker's real loop, alone and while samples stream in, against a bare loop of the same steps on an array in memory.

The worker is a process of its own with its ingest thread, its store on disk and a private RabbitMQ; the stream is another. All of
them compute on one thread, and whoever is not measured is stopped (SIGSTOP), so that contenders take turns within a few seconds.

The broker and the stream run beside the worker: on a machine of two cores, what they take of the trainer's counts against it.
"""

import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pika
import torch
import typer

from benchmarks.publish import keep_stdout_clear
from benchmarks.report import Result, emit, rate, say
from benchmarks.training_stream import SCHEDULE, SHAPE, message
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, declare
from diffusion.ema import EMA
from diffusion.network import UNet, UNetConfig
from diffusion.objective import released_loss
from tests.conftest import wait_until

BATCH_SAMPLES = 16
STREAM_BYTES_PER_SECOND = 5e6
FIRST_MESSAGES = 40
SETTLE_SECONDS = 0.5
NETWORK = UNetConfig(
    in_channels=SHAPE[0],
    image_size=SHAPE[1],
    base_channels=16,
    channel_multipliers=(1, 2),
    blocks_per_level=1,
)
TRAIN = (
    *("--image-size", "32", "--base-channels", "16", "--channel-multipliers", "1,2"),
    *("--blocks-per-level", "1", "--cut-min", "0.1", "--cut-max", "0.9", "--min-samples", "256"),
    *("--batch-size", str(BATCH_SAMPLES), "--threads", "1", "--device", "cpu"),
)


@dataclass(frozen=True)
class Pace:
    """Steps, and samples stored, per second."""

    steps: float
    stored: float = 0.0


class Turns:
    """A process that is stopped until it is its turn, with its children: torchrun gives each rank a session of its own."""

    def __init__(self, command: list[str], log_path: Path, environment: dict[str, str]) -> None:
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._log_path = log_path

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run for as long as this lasts, from when it has caught up with what is due from time to time."""
        self._signal(signal.SIGCONT)
        try:
            time.sleep(SETTLE_SECONDS)
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop it where it is."""
        self._signal(signal.SIGSTOP)

    def check(self) -> None:
        """Raise RuntimeError with its last lines when it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError("\n".join(self._log_path.read_text().splitlines()[-5:]))

    def end(self) -> None:
        """End all of them."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, number)


class Worker(Turns):
    """A train worker of one rank or more on a storage of its own."""

    def __init__(self, node: NodeInfo, folder: Path, *arguments: str) -> None:
        folder.mkdir()
        self._port_file = folder / "port"
        command = [sys.executable, "-m", "collafuse", "worker", "train", *TRAIN, *arguments]
        command += ["--storage", str(folder / "storage"), "--metrics-port-file", str(self._port_file)]
        environment = {**os.environ, "COLLAFUSE_BROKER_URL": node.amqp_url, "OMP_NUM_THREADS": "1"}
        super().__init__(command, folder / "log", environment)

    def count(self, name: str) -> float:
        """One counter of its /metrics; 0 while that is not served yet."""
        self.check()
        if not self._port_file.exists():
            return 0.0
        address = f"http://127.0.0.1:{int(self._port_file.read_text())}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))

    def pace(self, seconds: float) -> Pace:
        """Over a while that begins and ends with a step."""
        first, begun = self._at_a_step()
        stored = self.count("collafuse_samples_stored_total")
        time.sleep(seconds)
        last, ended = self._at_a_step()
        stored = self.count("collafuse_samples_stored_total") - stored
        return Pace((last - first) / (ended - begun), stored / (ended - begun))

    def _at_a_step(self) -> tuple[float, float]:
        before = self.count("collafuse_train_steps_total")
        while (now := self.count("collafuse_train_steps_total")) == before:
            time.sleep(0.002)
        return now, time.perf_counter()


class BareLoop:
    """What a step is, and nothing else: draw, forward, backward, clip, AdamW and EMA, on releases in memory."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._x = torch.from_numpy(np.concatenate([message(number).x for number in range(FIRST_MESSAGES)]))
        self._t_cut = torch.full((BATCH_SAMPLES,), 300)
        self._model = UNet(NETWORK).train()
        self._ema = EMA(self._model)
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=2e-4, weight_decay=0.0)
        self._generator = torch.Generator().manual_seed(0)

    def step(self) -> float:
        """One of them; returns the loss, as whoever trains wants to see it."""
        picked = torch.randint(len(self._x), (BATCH_SAMPLES,), generator=self._generator)
        loss, _, _ = released_loss(
            self._model, SCHEDULE, self._x[picked].float(), self._t_cut, None, generator=self._generator
        )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._ema.update(self._model)
        return float(loss.detach())

    def pace(self, seconds: float) -> Pace:
        """Over a while."""
        steps, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            self.step()
            steps += 1
        return Pace(steps / (time.perf_counter() - begun))


def against_the_bare_loop(worker: Worker, stream: Turns, rounds: int, seconds: float) -> list[Result]:
    """The worker with its stream, without it, and the bare loop, in turns."""
    bare_loop = BareLoop()
    bare_loop.pace(1.0)
    bare, quiet, fed = [], [], []
    for number in range(rounds):
        bare.append(bare_loop.pace(seconds))
        with worker.turn():
            quiet.append(worker.pace(seconds))
            with stream.turn():
                fed.append(worker.pace(seconds))
        shown = ", ".join(f"{pace.steps:.2f}" for pace in (bare[-1], quiet[-1], fed[-1]))
        say(f"round {number + 1} of {rounds}: bare, alone, fed: {shown} steps/s")
    samples = statistics.median(pace.stored for pace in fed)
    stream_name = (
        f"training while ingesting {samples:.0f} samples/s, {samples * 2 * math.prod(SHAPE) / 1e6:.1f} MB/s"
    )
    unit, rival, theirs = "steps/s", "the bare loop", [pace.steps for pace in bare]
    return [
        rate(stream_name, unit, [pace.steps for pace in fed], rival, theirs, 0.95),
        rate("training while nothing comes", unit, [pace.steps for pace in quiet], rival, theirs, None),
    ]


def two_ranks(one: Worker, two: Worker, rounds: int, seconds: float) -> Result:
    """Samples per second of two ranks of a thread each, against twice those of one."""
    ours, theirs = [], []
    for number in range(rounds):
        with one.turn():
            theirs.append(2 * BATCH_SAMPLES * one.pace(seconds).steps)
        with two.turn():
            ours.append(2 * BATCH_SAMPLES * two.pace(seconds).steps)
        say(f"round {number + 1} of {rounds}: two ranks {ours[-1]:.0f}, twice one {theirs[-1]:.0f} samples/s")
    return rate("2 ranks of one thread", "samples/s", ours, "twice one rank", theirs, None)


@contextmanager
def started(turns: Turns) -> Iterator[Turns]:
    """End it in any case."""
    try:
        yield turns
    finally:
        turns.end()


def stream(node: NodeInfo, scratch: Path, bytes_per_second: float, messages: int) -> Turns:
    """A device that sends."""
    device = f"d{len(list(scratch.iterdir()))}"
    address = BrokerSettings.from_url(node.amqp_url)
    with Management(node.management_url, node.user, node.password) as management:
        credentials = enroll(management, "benchmark", device, address=address)
    command = [
        sys.executable,
        "-m",
        "benchmarks.training_stream",
        f"benchmark_{device}",
        credentials.amqp_url,
    ]
    command += [str(bytes_per_second), str(messages)]
    return Turns(command, scratch / f"{device}.log", {**os.environ, "OMP_NUM_THREADS": "1"})


def measure(node: NodeInfo, scratch: Path, rounds: int, seconds: float) -> list[Result]:
    """All results."""
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        declare(amqp.channel(), FEDERATION)
    with ExitStack() as stack:
        one = Worker(node, scratch / "one")
        stack.enter_context(started(one))
        first = stack.enter_context(started(stream(node, scratch, 1e9, FIRST_MESSAGES)))
        wait_until(lambda: one.count("collafuse_train_steps_total") >= 10, "the worker trained", 60)
        one.stop()
        first.stop()
        fed = stack.enter_context(started(stream(node, scratch, STREAM_BYTES_PER_SECOND, 10**6)))
        time.sleep(
            1.0
        )  # until it sends: the broker holds what it sent, and the worker takes that in before it is measured
        fed.stop()
        with one.turn():
            one.pace(1.0)
        results = against_the_bare_loop(one, fed, rounds, seconds)
        two = Worker(node, scratch / "two", "--ranks", "2")
        stack.enter_context(started(two))
        second = stack.enter_context(started(stream(node, scratch, 1e9, FIRST_MESSAGES)))
        wait_until(lambda: two.count("collafuse_train_steps_total") >= 10, "two ranks trained", 60)
        two.stop()
        second.stop()
        return [*results, two_ranks(one, two, rounds, seconds)]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Steps a second of the train worker, against a bare loop."""
    keep_stdout_clear()
    rounds, seconds = (3, 1.5) if quick else (5, 3.0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        local = LocalNode(Path(scratch) / "node")
        say("starting a private RabbitMQ")
        try:
            results = measure(local.start(), Path(scratch), rounds, seconds)
        finally:
            local.stop()
    emit("training", results, as_json=as_json, quick=quick, torch=torch.__version__, threads="1 per process")


if __name__ == "__main__":
    typer.run(main)
