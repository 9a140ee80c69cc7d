"""What the engine benchmark serves: requests without a broker, and the loop that serves them."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from broker.contract.denoise import DenoiseV1
from diffusion.network import UNet, UNetConfig, parameter_count
from diffusion.plan import plan
from diffusion.schedule import NoiseSchedule
from server_worker.denoising.chain import prepare
from server_worker.denoising.engine import Engine
from server_worker.denoising.runner import Execution, Runner
from server_worker.denoising.scheduler import INTERACTIVE, PREFETCH, Group, Job, Limits, Scheduler
from server_worker.denoising.step_cost import StepCost
from server_worker.versions import Backbone, Manifest

SCHEDULE = NoiseSchedule.linear(1000)
NETWORK = UNetConfig(
    in_channels=3,
    image_size=32,
    base_channels=32,
    channel_multipliers=(1, 2, 2),
    blocks_per_level=1,
    attention=True,
)
DIGITS = UNetConfig(in_channels=1, image_size=8, base_channels=32, channel_multipliers=(1, 2))
"""The network of the demonstration: so small that calls, not arithmetic, are what costs."""
REQUESTS_IN_HAND = 32
"""Of each priority, as a worker takes them by default."""

_IDS = count(1)


@dataclass(frozen=True, eq=False)
class Arrival:
    """A request, whose it is, and when it comes, in seconds from the start."""

    request: DenoiseV1
    client: str = "a"
    priority: str = INTERACTIVE
    at_seconds: float = 0.0


@dataclass(eq=False)
class Served:
    """What came of a load.

    evaluations: samples times network evaluations.  latency_seconds: from arrival to the last sample, by request id.
    """

    seconds: float = 0.0
    evaluations: int = 0
    steps: int = 0
    latency_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Evaluations a second."""
        return self.evaluations / self.seconds


def shape_of(config: UNetConfig) -> tuple[int, int, int]:
    """(C, H, W)."""
    return (config.in_channels, config.image_size, config.image_size)


def describe(config: UNetConfig) -> str:
    """Its size, in words."""
    shape = "×".join(map(str, shape_of(config)))
    return f"{parameter_count(UNet(config)) / 1e6:.2f} M parameters, {shape}"


def backbone(device: torch.device, config: UNetConfig = NETWORK) -> Backbone:
    """A backbone with random weights: speed does not depend on what they are."""
    torch.manual_seed(0)
    network = UNet(config).to(device).eval().requires_grad_(False)
    manifest = Manifest(
        number=1,
        schedule_name=SCHEDULE.name,
        schedule_T=SCHEDULE.T,
        schedule_id=SCHEDULE.schedule_id,
        shape=shape_of(config),
        num_classes=None,
        t_cut_min=0,
        steps=0,
        samples_seen=0,
        weights_digest="",
        unet=config.to_dict(),
    )
    return Backbone(manifest, SCHEDULE, network)


def request(samples: int, evaluations: int, config: UNetConfig = NETWORK) -> DenoiseV1:
    """So many samples by DDIM from T to 0."""
    number = next(_IDS)
    return DenoiseV1(
        request_id=f"{number:032x}",
        shape=shape_of(config),
        n=samples,
        schedule_id=SCHEDULE.schedule_id,
        plan=plan(SCHEDULE, SCHEDULE.T, 0, evaluations),
        clip=1.0,
        seed=number,
        dtype="float32",
    )


def mixed(
    rng: np.random.Generator, requests: int, rate_per_second: float, config: UNetConfig, clients: int = 4
) -> list[Arrival]:
    """A Poisson stream of requests of 1 to 8 samples, most of them small, with 5 to 40 evaluations."""
    arrivals, now = [], 0.0
    for _ in range(requests):
        samples, evaluations = min(8, int(rng.geometric(0.5))), int(rng.integers(5, 41))
        arrivals.append(
            Arrival(request(samples, evaluations, config), f"c{rng.integers(clients)}", at_seconds=now)
        )
        now += float(rng.exponential(1 / rate_per_second))
    return arrivals


class Server:
    """Scheduler and engine with a loop around them, as a worker has it, and no broker."""

    def __init__(self, backbone: Backbone, execution: Execution, limits: Limits) -> None:
        self.limits = limits
        self.engine = Engine(execution)
        self.runner: Runner = self.engine.install(backbone)

    def serve(
        self,
        arrivals: Sequence[Arrival],
        *,
        in_hand: int = REQUESTS_IN_HAND,
        until: Callable[[Served], bool] = lambda _: False,
    ) -> Served:
        """Serve a load until all of it is done, or `until` says so; at most `in_hand` requests of each priority at a time."""
        waiting = {
            priority: deque(each for each in arrivals if each.priority == priority)
            for priority in (INTERACTIVE, PREFETCH)
        }
        scheduler, served = Scheduler(self.limits), Served()
        desk = _Desk(self.engine, self.runner.backbone, scheduler)
        started = time.perf_counter()
        while (any(waiting.values()) or desk.open) and not until(served):
            now = time.perf_counter() - started
            for priority, queue in waiting.items():
                while queue and queue[0].at_seconds <= now and desk.count[priority] < in_hand:
                    desk.take(queue.popleft())
            if not self._step(scheduler, served, desk, started):
                time.sleep(0.0005)
        served.seconds = time.perf_counter() - started
        for key in desk.open:
            self.engine.forget(key)
        return served

    def _step(self, scheduler: Scheduler, served: Served, desk: "_Desk", started: float) -> bool:
        groups = scheduler.select()
        if not groups:
            return False
        self.engine.launch(groups)
        self.engine.wait()
        served.steps += 1
        served.evaluations += sum(group.count for group in groups)
        for group in scheduler.advance():
            self.engine.finish(group)
            arrival = desk.done(group)
            if arrival is not None:
                served.latency_seconds[group.key] = time.perf_counter() - started - arrival.at_seconds
        return True


class _Desk:
    """The requests in hand."""

    def __init__(self, engine: Engine, backbone: Backbone, scheduler: Scheduler) -> None:
        self._engine = engine
        self._backbone = backbone
        self._scheduler = scheduler
        self._left: Counter[str] = Counter()
        self.open: dict[str, Arrival] = {}
        self.count: Counter[str] = Counter()

    def take(self, arrival: Arrival) -> None:
        each = arrival.request
        self._engine.accept(each.request_id, prepare(each, self._backbone))
        self._scheduler.add(
            Job(each.request_id, arrival.client, each.n, len(each.plan) - 1, arrival.priority)
        )
        self.open[each.request_id] = arrival
        self._left[each.request_id] = each.n
        self.count[arrival.priority] += 1

    def done(self, group: Group) -> Arrival | None:
        """These samples are done; returns the request when it is."""
        self._left[group.key] -= group.count
        if self._left[group.key]:
            return None
        self._engine.forget(group.key)
        arrival = self.open.pop(group.key)
        self.count[arrival.priority] -= 1
        return arrival


def limits_for(cost: StepCost, max_batch: int | None = None) -> Limits:
    """A worker's limits after its warm-up."""
    return Limits(max_batch or cost.saturating_samples(), cost=cost)
