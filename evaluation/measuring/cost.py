"""What a network costs: counted in arithmetic, measured in processor time, and in energy where the processor tells.

Arithmetic is counted by torch (a multiplication and an addition are two operations), a network's evaluation for one image
and an update for one sample apart. Time is the processor's, summed over cores, so that other work on the machine does not
count. Energy is read from the processor's counters where they may be read; else it is time multiplied by `CORE_WATTS`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from diffusion.network import UNet, UNetConfig
from edge_agent.heads.energy import EnergyMeter
from evaluation.metrics.spread import Spread, spread
from evaluation.running.fitting import new_network

CORE_WATTS = 10.0
"""What one busy core is taken to draw where nothing can be measured: an assumption, of laptops and servers of today."""


@dataclass(frozen=True)
class NetworkCost:
    """One network, for one image.

    evaluation_flops, evaluation_seconds, evaluation_joules: of one evaluation for one image.
    update_flops, …: of one sample's share of an update: forwards, backwards, and the optimiser's step (time and energy only).
    energy: whether joules are measured or estimated.
    """

    parameters: int
    evaluation_flops: int
    evaluation_seconds: Spread
    evaluation_joules: Spread
    update_flops: int
    update_seconds: Spread
    update_joules: Spread
    energy: Literal["measured", "estimated"]


@dataclass(frozen=True)
class Bill:
    """One side's part in a chain: to make an image, and to train the network that makes it.

    evaluations: for one image;  samples: seen in training.  Seconds are of one core.
    """

    parameters: int
    evaluations: int
    image_flops: int
    image_seconds: Spread
    image_joules: Spread
    samples: int
    training_flops: int
    training_seconds: Spread
    training_joules: Spread


def energy_meter() -> EnergyMeter:
    """The processor's own counters, or `CORE_WATTS`."""
    return EnergyMeter(CORE_WATTS)


def network_cost(config: UNetConfig, meter: EnergyMeter, *, batch_size: int, repeats: int = 5) -> NetworkCost:
    """Measures a fresh network of this shape, in batches as an experiment uses them; its weights do not matter.

    repeats: of each measurement, two or more; one more is made beforehand and not counted.
    """
    network = new_network(config, seed=0)
    one, many = _samples(config, 1), _samples(config, batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def evaluate() -> None:
        with torch.inference_mode():
            network(*many)

    def update() -> None:
        optimiser.zero_grad(set_to_none=True)
        _loss(network, many).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    evaluation_flops = counted_flops(lambda: network(*one), backwards=False)
    evaluation, evaluation_joules = _timed(evaluate, meter, batch_size, repeats)
    updating, updating_joules = _timed(update, meter, batch_size, repeats)
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        evaluation_flops=evaluation_flops,
        evaluation_seconds=evaluation,
        evaluation_joules=evaluation_joules,
        update_flops=update_flops(config),
        update_seconds=updating,
        update_joules=updating_joules,
        energy=meter.kind or "estimated",
    )


def update_flops(config: UNetConfig) -> int:
    """Floating-point operations of one sample's share of an update: forwards and backwards."""
    network, one = new_network(config, seed=0), _samples(config, 1)
    return counted_flops(lambda: _loss(network, one), backwards=True)


def counted_flops(forwards: Callable[[], Tensor], *, backwards: bool) -> int:
    """Floating-point operations of a computation as torch counts them: convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backwards):
        result = forwards()
        if backwards:
            torch.autograd.backward([result])
    return int(counter.get_total_flops())


def bill(cost: NetworkCost | None, *, evaluations: int, samples: int) -> Bill:
    """What a side pays for so many evaluations of one image, and for training on so many samples; None for no network."""
    if cost is None:
        nothing = spread((0.0, 0.0))
        return Bill(0, 0, 0, nothing, nothing, 0, 0, nothing, nothing)
    return Bill(
        parameters=cost.parameters,
        evaluations=evaluations,
        image_flops=evaluations * cost.evaluation_flops,
        image_seconds=times(cost.evaluation_seconds, evaluations),
        image_joules=times(cost.evaluation_joules, evaluations),
        samples=samples,
        training_flops=samples * cost.update_flops,
        training_seconds=times(cost.update_seconds, samples),
        training_joules=times(cost.update_joules, samples),
    )


def times(figure: Spread, factor: float) -> Spread:
    """A figure in another unit: everything but n multiplied by a factor of 0 or more."""
    return Spread(
        mean=factor * figure.mean,
        standard_deviation=factor * figure.standard_deviation,
        median=factor * figure.median,
        low=factor * figure.low,
        high=factor * figure.high,
        n=figure.n,
    )


def _samples(config: UNetConfig, n: int) -> tuple[Tensor, Tensor, Tensor | None]:
    images = torch.zeros(n, config.in_channels, config.image_size, config.image_size)
    steps = torch.ones(n, dtype=torch.int64)
    return images, steps, None if config.num_classes is None else torch.zeros(n, dtype=torch.int64)


def _loss(network: UNet | nn.Module, samples: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    return functional.mse_loss(network(*samples), samples[0])


def _timed(work: Callable[[], None], meter: EnergyMeter, images: int, repeats: int) -> tuple[Spread, Spread]:
    """Processor seconds and joules for one image of `images`."""
    work()
    seconds, joules = [], []
    for _ in range(repeats):
        counters, started = meter.read(), time.process_time()
        work()
        seconds.append(time.process_time() - started)
        used = meter.joules_since(counters, seconds[-1])
        joules.append(CORE_WATTS * seconds[-1] if used is None else used)
    return spread(value / images for value in seconds), spread(value / images for value in joules)
