"""What the demo consists of: who takes part, how large the networks are, and how long they train.

The sizes are chosen so that two cores finish in a few minutes and a person can still read the digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Network:
    """A U-Net's size and its training: widths, optimiser steps, images per step, peak learning rate."""

    base_channels: int
    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Design:
    """The whole plan of a run.

    clients: client → the digits it holds. cut_ratio: their share of the chain.
    server_steps, head_steps: network evaluations on the two sides for one image.
    image_sets: generation seeds per client, over which fidelity has its spread; images_per_set: images of each.
    """

    clients: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: MappingProxyType(
            {"north": (0, 1, 2), "east": (3, 4, 5), "south": (6, 7, 8, 9)}
        )
    )
    device: str = "scanner-1"
    denoise_workers: int = 2
    schedule: str = "cosine"
    timesteps: int = 1000
    cut_ratio: float = 0.3
    num_classes: int = 10
    server_steps: int = 16
    head_steps: int = 8
    sampler: str = "ddim"
    clip: float = 1.0
    backbone: Network = Network(base_channels=16, steps=1500, batch_size=64, learning_rate=2e-3)
    head: Network = Network(base_channels=16, steps=600, batch_size=64, learning_rate=2e-3)
    image_sets: int = 3
    images_per_set: int = 150
    seed: int = 7
    publish_steps: int = 500

    @classmethod
    def quick(cls) -> "Design":
        """The same path with hardly any training: shows that everything works, not what it can do."""
        return cls(
            backbone=Network(base_channels=16, steps=120, batch_size=32, learning_rate=2e-3),
            head=Network(base_channels=8, steps=40, batch_size=32, learning_rate=2e-3),
            server_steps=6,
            head_steps=3,
            image_sets=2,
            images_per_set=40,
            publish_steps=60,
        )

    @property
    def isolated(self) -> Network:
        """A client alone: the backbone's network for the whole chain, and all updates that the federation spends per client."""
        share = round(self.backbone.steps / len(self.clients))
        return Network(
            self.backbone.base_channels,
            share + self.head.steps,
            self.backbone.batch_size,
            self.backbone.learning_rate,
        )

    @property
    def evaluations(self) -> int:
        """Network evaluations for one image on both sides together; the isolated model gets as many."""
        return self.server_steps + self.head_steps
