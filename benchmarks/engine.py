"""The denoising engine without a broker: everything in one run, on the same weights, rounds in alternation.

python -m benchmarks.engine [--quick] [--json] [--device cuda] [--compile] [--precision bfloat16]
"""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.engine_loads import (
    DIGITS,
    NETWORK,
    Arrival,
    Server,
    backbone,
    describe,
    limits_for,
    mixed,
    request,
)
from benchmarks.engine_rivals import bare_calls_per_second, ddim_pipeline, ddim_seconds
from benchmarks.report import Result, emit, rate, say, spread
from diffusion.network import UNetConfig
from monitoring import logs
from server_worker.denoising.runner import Execution
from server_worker.denoising.scheduler import PREFETCH, Limits
from server_worker.denoising.step_cost import StepCost, batch_sizes
from server_worker.denoising.warm_up import LARGEST_BATCH, warm_up
from server_worker.denoising.watchdog import Watchdog

BOOKKEEPING_SHARE = 0.03
EVALUATIONS = 20


@dataclass(frozen=True)
class Options:
    """How the engine is run, and how long."""

    quick: bool
    device: torch.device
    threads: int
    precision: str
    compiled: bool

    def server(self, config: UNetConfig = NETWORK) -> Server:
        """An engine with a backbone loaded."""
        sizes = batch_sizes(LARGEST_BATCH[self.device.type]) if self.compiled else ()
        execution = Execution(self.device, self.precision, sizes)
        return Server(backbone(self.device, config), execution, Limits(1))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads of the network.")] = os.cpu_count() or 1,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile; on a GPU, record CUDA graphs.")
    ] = False,
    worker: Annotated[float, typer.Option(hidden=True)] = 0.0,
) -> None:
    """The denoising engine without a broker, against bare network calls, itself one request at a time, and diffusers."""
    logs.configure("benchmark", level="warning")
    options = Options(quick, torch.device(device), threads, precision, compiled)
    torch.set_num_threads(threads)
    server = options.server()
    if worker:
        _be_a_worker(server, worker)
        return
    cost = _warmed_up(server)
    small = options.server(DIGITS)
    _warmed_up(small)
    say(f"step seconds by batch: {dict(zip(cost.samples, (round(s, 4) for s in cost.seconds), strict=True))}")
    say(f"saturating batch: {server.limits.max_batch} samples")
    results = [
        _saturated(server, cost, rounds=2 if quick else 7, seconds=1.0 if quick else 3.0),
        *_mix(server, rounds=2 if quick else 5, requests=6 if quick else 30),
        *_mix(small, rounds=2 if quick else 5, requests=30 if quick else 150),
        *_equal_batches(server, rounds=2 if quick else 7),
        *_interactive(server, rounds=1 if quick else 3, requests=8 if quick else 30),
        _bookkeeping(server, cost, steps=10 if quick else 60),
    ]
    if options.device.type == "cpu":
        results.append(_two_workers(quick=quick))
    emit("engine", results, as_json=as_json, quick=quick, **_facts(options, cost))


def _warmed_up(server: Server) -> StepCost:
    """Find its batch as a worker does."""
    cost = warm_up(server.runner, server.engine.execution, None, watchdog=Watchdog(3600.0))
    assert cost is not None
    server.limits = limits_for(cost)
    return cost


def _facts(options: Options, cost: StepCost) -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "cpu",
        "threads": str(options.threads),
        "torch": torch.__version__,
        "precision": options.precision + (", compiled" if options.compiled else ""),
        "network": describe(NETWORK),
        "largest batch": f"{cost.saturating_samples()} samples",
    }


def _saturated(server: Server, cost: StepCost, *, rounds: int, seconds: float) -> Result:
    """As many requests as it can take, against nothing but the network at whichever batch size is best for it."""
    best = max(cost.samples, key=lambda size: size / cost.of(size))
    ours, bare = [], []
    for number in range(rounds):
        say(f"saturated, round {number + 1} of {rounds}")
        bare.append(
            bare_calls_per_second(
                server.runner.backbone.network, server.engine.execution.device, best, seconds
            )
        )
        ours.append(_rate_for(server, seconds))
    return rate(
        "saturated throughput", "evaluations/s", ours, f"bare network calls at batch {best}", bare, 0.9
    )


def _rate_for(server: Server, seconds: float) -> float:
    """Evaluations a second under more load than it can take."""
    load = [Arrival(request(8, EVALUATIONS), client=f"c{i % 4}") for i in range(1000)]
    until = time.perf_counter() + seconds
    return server.serve(load, until=lambda _: time.perf_counter() > until).rate


def _mix(server: Server, *, rounds: int, requests: int) -> list[Result]:
    """A Poisson mix that comes faster than it can be served: together, one at a time, and by diffusers' pipeline."""
    config = server.runner.backbone.network.config
    pipeline = ddim_pipeline(server.runner.backbone.network)
    together, alone, diffusers = [], [], []
    for number in range(rounds):
        say(f"Poisson mix of {requests} requests, round {number + 1} of {rounds}")
        load = mixed(np.random.default_rng(number), requests, 200.0, config)
        work = [(arrival.request.n, len(arrival.request.plan) - 1) for arrival in load]
        evaluations = sum(samples * steps for samples, steps in work)
        together.append(evaluations / server.serve(load).seconds)
        alone.append(evaluations / server.serve(_again(load, config), in_hand=1).seconds)
        diffusers.append(evaluations / ddim_seconds(pipeline, work))
    unit, name = "evaluations/s", f"Poisson mix of sizes and plans, {describe(config)}"
    return [
        rate(name, unit, together, "the same worker, one request at a time", alone, 2.0),
        rate(name, unit, together, "diffusers' DDIM pipeline", diffusers, 2.0),
    ]


def _again(load: list[Arrival], config: UNetConfig) -> list[Arrival]:
    return [
        Arrival(
            request(each.request.n, len(each.request.plan) - 1, config),
            each.client,
            each.priority,
            each.at_seconds,
        )
        for each in load
    ]


def _equal_batches(server: Server, *, rounds: int) -> list[Result]:
    """Requests of one size and one plan: nothing to gain from batching, so only the loop and the memory layout are compared."""
    network = server.runner.backbone.network
    pipelines = {
        "diffusers' DDIM pipeline": ddim_pipeline(network),
        "diffusers' DDIM pipeline, channels-last": ddim_pipeline(network, torch.channels_last),
    }
    samples = server.limits.max_batch
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(rounds + 1):
        say(f"equal batches, round {number} of {rounds}")
        served = server.serve([Arrival(request(samples, EVALUATIONS))])
        seconds = {name: ddim_seconds(each, [(samples, EVALUATIONS)]) for name, each in pipelines.items()}
        if number:  # the first is a warm-up
            ours.append(served.rate)
            for name, value in seconds.items():
                theirs[name].append(samples * EVALUATIONS / value)
    return [
        rate(
            f"equal batches of {samples}",
            "evaluations/s",
            ours,
            name,
            values,
            None if "channels-last" in name else 1.0,
        )
        for name, values in theirs.items()
    ]


def _interactive(server: Server, *, rounds: int, requests: int) -> list[Result]:
    """How long somebody waits who asks for two images, alone and while a pool is being filled as fast as it goes."""
    unloaded: list[float] = []
    loaded: list[float] = []
    unyielding: list[float] = []
    alone_seconds = server.serve([Arrival(request(2, EVALUATIONS))]).seconds
    stubborn = Server(
        server.runner.backbone,
        server.engine.execution,
        replace(server.limits, interactive_slowdown=1e9),
    )
    for number in range(rounds):
        say(f"interactive requests beside prefetch, round {number + 1} of {rounds}")
        rng = np.random.default_rng(number)
        times = np.cumsum(rng.exponential(4 * alone_seconds, requests)).tolist()
        unloaded.append(_p95_seconds(server, times, prefetch=False))
        loaded.append(_p95_seconds(server, times, prefetch=True))
        unyielding.append(_p95_seconds(stubborn, times[: requests // 4], prefetch=True))
    return [
        _lower_is_better(
            "p95 of an interactive request under full prefetch load", loaded, "unloaded", unloaded, 0.5
        ),
        _lower_is_better(
            "p95 of an interactive request under full prefetch load",
            loaded,
            "the same, prefetch fills every call",
            unyielding,
            None,
        ),
    ]


def _p95_seconds(server: Server, times: list[float], *, prefetch: bool) -> float:
    urgent = [Arrival(request(2, EVALUATIONS), f"c{i % 4}", at_seconds=at) for i, at in enumerate(times)]
    wanted = {each.request.request_id for each in urgent}
    load = list(urgent)
    if prefetch:
        load += [Arrival(request(64, 50), f"p{i % 4}", PREFETCH, 0.0) for i in range(300)]
        load.sort(key=lambda arrival: arrival.at_seconds)
    served = server.serve(load, until=lambda served: wanted <= served.latency_seconds.keys())
    return float(np.quantile([served.latency_seconds[key] for key in wanted], 0.95))


def _lower_is_better(
    name: str, ours: list[float], rival: str, theirs: list[float], bar: float | None
) -> Result:
    own, other = statistics.median(ours), statistics.median(theirs)
    return Result(name, "s", own, rival, other, other / own, bar, spread(ours))


def _bookkeeping(server: Server, cost: StepCost, *, steps: int) -> Result:
    """All of a step at 64 samples that is not the network and its arithmetic, at its worst: 64 requests of one sample each."""
    limits = server.limits
    server.limits = limits_for(cost, 64)
    load = [Arrival(request(1, steps), client=f"c{i % 8}") for i in range(64)]
    network = _timed_network(server)
    served = server.serve(load, in_hand=64)
    server.limits = limits
    own = (served.seconds - network[0]) / served.steps
    step = served.seconds / served.steps
    return Result(
        "scheduler and bookkeeping of a step at 64 samples",
        "s",
        own,
        "3 % of the step",
        BOOKKEEPING_SHARE * step,
        BOOKKEEPING_SHARE * step / own,
        1.0,
        f"{own / step:.2%} of {step * 1e3:.1f} ms, mean of {served.steps} steps",
    )


def _timed_network(server: Server) -> list[float]:
    """Add up the seconds inside the runner, which are network and sampler."""
    seconds, step = [0.0], server.runner.step

    def timed(*arguments: object, **named: object) -> object:
        started = time.perf_counter()
        result = step(*arguments, **named)  # type: ignore[arg-type]
        server.runner.synchronize()
        seconds[0] += time.perf_counter() - started
        return result

    server.runner.step = timed  # type: ignore[method-assign, assignment]
    return seconds


def _two_workers(*, quick: bool) -> Result:
    """Two processes of one thread each against one."""
    one, two = [], []
    rounds, seconds = (1, 3) if quick else (5, 6)
    for number in range(rounds):
        say(f"two workers, round {number + 1} of {rounds}")
        one.append(sum(_workers(1, seconds)))
        two.append(sum(_workers(2, seconds)))
    return rate("two one-thread workers", "evaluations/s", two, "one", one, 1.8)


def _workers(count: int, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.engine", "--worker", str(seconds), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(count)
    ]
    for each in running:  # all warm before any starts
        assert each.stdout is not None
        assert each.stdout.readline().strip() == "ready"
    for each in running:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return [float(each.communicate()[0]) for each in running]


def _be_a_worker(server: Server, seconds: float) -> None:
    server.limits = Limits(8)
    server.serve([Arrival(request(8, 3))])
    print("ready", flush=True)
    sys.stdin.readline()
    print(_rate_for(server, seconds))


if __name__ == "__main__":
    typer.run(main)
