"""The networks of the system itself: backbones on releases, heads and whole models on clean images. Rivals bring their own.

A training is a plain value: it names everything that its result depends on beside the data, so that the result can be kept
under that name and found again by whatever experiment asks for the same.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.network import UNet
from diffusion.objective import local_loss, released_loss
from diffusion.split import Cut
from evaluation.data.images import LabelledImages
from evaluation.errors import DataError
from evaluation.running.design import Design
from evaluation.running.federation import Federation
from evaluation.running.fitting import Fit, Tell, fit, new_network, unet_config

LABEL_DROPOUT = 0.1
"""One sample in ten is shown without its label, so that "no label" is one that the network knows."""
REVISION = 2
"""Raised whenever the same values train another network, so that those kept before are not taken for new ones."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gives: the network (averaged weights, eval mode), its fit, and tensors that belong with it."""

    network: UNet
    fit: Fit
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Training(Protocol):
    """A frozen dataclass of plain values that knows how to train."""

    @property
    def title(self) -> str:
        """A few words for the progress display."""

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all: what the progress display counts."""

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains; the same federation gives the same weights on the same machine."""


@dataclass(frozen=True)
class Budget:
    """Of one network: base channels, optimiser updates, samples per update, peak learning rate."""

    width: int
    updates: int
    batch_size: int
    learning_rate: float

    @classmethod
    def backbone(cls, design: Design) -> "Budget":
        """What the server spends on the backbone, and every rival on the network that it makes images with."""
        return cls(design.width, design.updates, design.batch_size, design.learning_rate)

    @classmethod
    def head(cls, design: Design) -> "Budget":
        """What a client spends on its head."""
        return cls(design.head_width, design.head_updates, design.batch_size, design.learning_rate)


@dataclass(frozen=True)
class TrainingOnReleases(ABC):
    """A backbone on samples of one cut, for t in (t_c, T].

    seed: of weights, batches and the noise of the releases.
    """

    cut_ratio: float
    budget: Budget
    seed: int

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the samples of all clients together, by the exact loss."""
        x_c, labels = self.samples(federation)
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        config = unet_config(federation.shape, self.budget.width, federation.num_classes)
        network = new_network(config, self.seed)
        samples, known = torch.from_numpy(x_c), torch.from_numpy(labels.astype(np.int64))

        def loss_of(generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(samples), (self.budget.batch_size,), generator=generator)
            cuts = torch.full((len(rows),), t_cut)
            label = with_some_hidden(known[rows], federation.num_classes, generator)
            return released_loss(
                network, federation.schedule, samples[rows], cuts, label, generator=generator
            )[0]

        return fitted(network, loss_of, self.budget, self.seed, tell)

    @abstractmethod
    def samples(self, federation: Federation) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """What it is trained on: (N, C, H, W) float32 over all clients, and the labels, (N,) int32."""


@dataclass(frozen=True)
class BackboneTraining(TrainingOnReleases):
    """The server's backbone on what the clients release.

    At cut ratio 0 nothing is released in the real system (a device refuses); there it is trained on the clean images, which
    is what "everything on the server" means.  releases: K of every image.
    """

    releases: int = 1

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return f"backbone at cut {self.cut_ratio:g}" + (
            f", {self.releases} releases" if self.releases > 1 else ""
        )

    def samples(self, federation: Federation) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """What the server holds: (K·N, C, H, W) float32 over all clients, and the labels, (K·N,) int32."""
        if self.cut_ratio == 0:
            return federation.pooled.images, federation.pooled.labels
        parts = [
            federation.released(client, self.cut_ratio, self.releases, seed=self.seed)
            for client in federation.clients
        ]
        images = np.concatenate([part.reshape(-1, *federation.shape) for part in parts])
        labels = np.concatenate(
            [np.tile(client.train.labels, self.releases) for client in federation.clients]
        )
        return images, labels


@dataclass(frozen=True)
class LocalTraining:
    """A network on clean images, for t in [1, t_c]: a client's head; at cut ratio 1 a whole model of its own.

    client: whose images; None for all clients' together, which is the central model.
    """

    client: str | None
    cut_ratio: float
    budget: Budget
    seed: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        if self.client is None:
            return "central model"
        return (
            f"{self.client} alone"
            if self.cut_ratio == 1
            else f"head of {self.client} at cut {self.cut_ratio:g}"
        )

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the images of one client, or of all."""
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        if t_cut < 1:
            raise DataError(f"a head at cut {self.cut_ratio} owns no step: there is nothing to train")
        data = federation.pooled if self.client is None else federation.client(self.client).train
        return trained_on_images(federation, data, t_cut, self.budget, self.seed, tell)


def trained_on_images(
    federation: Federation, data: LabelledImages, t_cut: int, budget: Budget, seed: int, tell: Tell
) -> Trained:
    """A network on clean images for t in [1, t_cut], by the plain loss."""
    network = new_network(unet_config(federation.shape, budget.width, federation.num_classes), seed)
    images, known = torch.from_numpy(data.images), torch.from_numpy(data.labels.astype(np.int64))

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(images), (budget.batch_size,), generator=generator)
        label = with_some_hidden(known[rows], federation.num_classes, generator)
        return local_loss(network, federation.schedule, images[rows], label, t_cut, generator)

    return fitted(network, loss_of, budget, seed, tell)


def fitted(
    network: UNet, loss_of: Callable[[torch.Generator], Tensor], budget: Budget, seed: int, tell: Tell
) -> Trained:
    """A network fitted by a loss, with a budget's updates and learning rate; see `fitting.fit`."""
    made = fit(
        network,
        loss_of,
        updates=budget.updates,
        learning_rate=budget.learning_rate,
        seed=seed,
        tell=tell,
    )
    return Trained(network, made)


def with_some_hidden(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """The labels, (B,) int64, some of them K, which means "no label"."""
    hidden = torch.rand(len(labels), generator=generator) < LABEL_DROPOUT
    return torch.where(hidden, num_classes, labels)


def name_of(training: Training, federation: Federation) -> str:
    """Under what name a result is kept: 20 hex digits over the kind, its values, the data and the schedule."""
    described: dict[str, Any] = {
        "revision": REVISION,
        "kind": type(training).__name__,
        "values": asdict(training, dict_factory=_without_places),  # type: ignore[call-overload]  # a protocol cannot say "dataclass"
        "data": federation.fingerprint,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:20]


def _without_places(values: list[tuple[str, Any]]) -> dict[str, Any]:
    """A path says where something lies and not what it is: a digest of it, beside the path, does."""
    return {name: value for name, value in values if not isinstance(value, Path)}
