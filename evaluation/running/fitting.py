"""One way to fit a network, for every party and every rival: what differs between them is the loss and nothing else.

AdamW under a linear warm-up and half a cosine, gradients of norm 1 at most, and the moving average of the weights as the
result, as a device's head is trained.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from diffusion.ema import EMA
from diffusion.network import UNet, UNetConfig
from edge_agent.training.local_training import learning_rate_at
from evaluation.errors import RunError

WEIGHT_DECAY, GRADIENT_NORM, EMA_DECAY = 1e-4, 1.0, 0.995
CURVE_POINTS = 40

Tell = Callable[[int, int, float], None]
"""Told (updates done, of how many, loss) now and then."""


@dataclass(frozen=True)
class Fit:
    """What a fit was: its loss over updates, `(update, mean loss since the point before)`, and how long it took."""

    curve: tuple[tuple[int, float], ...]
    seconds: float


def unet_config(shape: tuple[int, int, int], width: int, num_classes: int | None) -> UNetConfig:
    """The network for images of (C, H, W): halved until 8 pixels are left, but once at least, with attention at the bottom."""
    channels, size, _ = shape
    levels = max(2, 1 + int(math.log2(max(size // 8, 1))))
    while size % 2 ** (levels - 1):
        levels -= 1
    return UNetConfig(
        in_channels=channels,
        image_size=size,
        base_channels=width,
        channel_multipliers=(1, 2, 2, 2, 2, 2)[:levels],
        num_classes=num_classes,
    )


def new_network(config: UNetConfig, seed: int) -> UNet:
    """A network with weights drawn from `seed`; the process's own random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)


def fit(
    network: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    updates: int,
    learning_rate: float,
    seed: int,
    tell: Tell | None = None,
) -> Fit:
    """Fits `network` in place; it ends with the moving average of its weights, in eval mode.

    loss_of: draws a batch with the generator it is given and returns the loss, () float32.
    Raises RunError when the loss is not finite.
    """
    learner = Learner(network, loss_of, updates=updates, learning_rate=learning_rate, seed=seed)
    every = math.ceil(updates / CURVE_POINTS)
    curve: list[tuple[int, float]] = []
    recent: list[float] = []
    started = time.monotonic()
    for update in range(1, updates + 1):
        recent.append(learner.update())
        if update % every == 0 or update == updates:
            curve.append((update, finite(fmean(recent), update)))
            recent.clear()
            if tell is not None:
                tell(update, updates, curve[-1][1])
    learner.finish()
    return Fit(tuple(curve), time.monotonic() - started)


class Learner:
    """A network while it is fitted, one update at a time: with its optimiser's state and the average of its weights.

    Arguments as of `fit`. Somebody else may change the network's weights between two updates, as federated averaging does.
    """

    def __init__(
        self,
        network: nn.Module,
        loss_of: Callable[[torch.Generator], Tensor],
        *,
        updates: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self.network = network.train()
        self.average = EMA(network, decay=EMA_DECAY)
        self._loss_of = loss_of
        self._generator = torch.Generator().manual_seed(seed)
        # Fused: on a network of this size the optimiser would otherwise take a sixth of the time.
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        self._rate = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: learning_rate_at(step, updates)
        )

    def update(self) -> float:
        """One update on one batch; its loss."""
        loss = self._loss_of(self._generator)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self._optimiser.step()
        self._rate.step()
        self.average.update(self.network)
        return float(loss.detach())

    def finish(self) -> None:
        """The network takes the average of its weights, in eval mode, and learns no more."""
        self.average.copy_to(self.network)
        self.network.eval().requires_grad_(False)


def finite(loss: float, update: int) -> float:
    """The loss, if it is a number.  Raises RunError where it is none."""
    if not math.isfinite(loss):
        raise RunError(f"the loss is {loss} at update {update}: evaluate with a smaller learning rate")
    return loss
