"""How to train: the numbers, and the learning rate of every step."""

import math
from dataclasses import dataclass
from typing import Literal

from diffusion.network import UNetConfig
from server_worker.settings import TrainSettings

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainPlan:
    """How to train.

    lr: AdamW's learning rate after `warmup_steps`; steps: its cosine ends there at `lr` times `lr_final`, None: no end, and so
    a constant rate;  gradient_norm: gradients are clipped to this L2 norm;  ema_decay: of the weights' average;
    precision: of the network's arithmetic, while weights, optimiser and loss stay float32;  seed: of the weights, the draws
    from the store, t and ε_s.
    """

    lr: float
    weight_decay: float
    warmup_steps: int
    gradient_norm: float
    ema_decay: float
    seed: int
    steps: int | None = None
    lr_final: float = 0.1
    precision: Precision = "float32"


def learning_rate(plan: TrainPlan, step: int) -> float:
    """The rate of step `step`, from 0: a straight rise, then half a cosine to the last step (Loshchilov & Hutter 2017, eq. 5)."""
    if step < plan.warmup_steps:
        return plan.lr * (step + 1) / plan.warmup_steps
    if plan.steps is None:
        return plan.lr
    last = max(plan.warmup_steps + 1, plan.steps - 1)
    progress = min(1.0, (step - plan.warmup_steps) / (last - plan.warmup_steps))
    return plan.lr * (plan.lr_final + (1 - plan.lr_final) * (1 + math.cos(math.pi * progress)) / 2)


def train_plan(settings: TrainSettings) -> TrainPlan:
    """The trainer's part of the settings."""
    return TrainPlan(
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        gradient_norm=settings.gradient_norm,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
        steps=settings.steps,
        lr_final=settings.lr_final,
        precision=settings.precision,
    )


def network_config(settings: TrainSettings) -> UNetConfig:
    """The backbone's network. Raises DiffusionError when the sizes do not fit each other."""
    return UNetConfig(
        in_channels=settings.channels,
        image_size=settings.image_size,
        base_channels=settings.base_channels,
        channel_multipliers=settings.channel_multipliers,
        blocks_per_level=settings.blocks_per_level,
        attention=settings.attention,
        num_classes=settings.num_classes,
    )
