"""A head that goes on learning: by halves on the server's actual latents and on the plain loss, or on the latter alone."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion.network import UNet
from diffusion.objective import local_loss
from diffusion.split import Cut
from evaluation.data.images import LabelledImages
from evaluation.errors import DesignError
from evaluation.experiments.refinement.latents import aligned_loss, denoised_to_the_cut
from evaluation.running.federation import Federation
from evaluation.running.fitting import Tell, fit
from evaluation.running.generation import StepPlan
from evaluation.running.trainings import (
    BackboneTraining,
    Budget,
    LocalTraining,
    Trained,
    with_some_hidden,
)

LATER_UPDATES, LATER_RATE = 0.5, 0.3
"""Of the updates and of the peak learning rate that a head was trained with."""


@dataclass(frozen=True)
class RefinedHead:
    """A head trained on, by half as many updates again.

    reach: from how much of the server's plan before the cut the latents come, in (0, 1]; 0 is the control, which goes on with
    the plain loss alone.  server: how the server runs its part; the other fields are those of the two networks it grows from.
    """

    client: str
    cut_ratio: float
    backbone: Budget
    head: Budget
    server: StepPlan
    reach: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.reach <= 1:
            raise DesignError(
                f"a reach of {self.reach} is no share of the server's plan: choose one in [0, 1]"
            )

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        how = f"latents from {self.reach:.0%} of the plan" if self.reach else "the plain loss"
        return f"head of {self.client} at cut {self.cut_ratio:g}, trained on with {how}"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all, without those of the networks that it grows from."""
        return max(1, round(LATER_UPDATES * self.head.updates))

    def grows_from(self) -> tuple[BackboneTraining, LocalTraining]:
        """The server's network and the client's head before."""
        return (
            BackboneTraining(self.cut_ratio, self.backbone, self.seed),
            LocalTraining(self.client, self.cut_ratio, self.head, self.seed),
        )

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains the two networks anew first; whoever has them calls `grown`."""
        backbone, head = (training.train(federation, tell).network for training in self.grows_from())
        return self.grown(backbone, head, federation, tell)

    def grown(self, backbone: UNet, head: UNet, federation: Federation, tell: Tell) -> Trained:
        """Trains on from these two, which stay as they are."""
        data = federation.client(self.client).train
        x_0, known = torch.from_numpy(data.images), torch.from_numpy(data.labels.astype(np.int64))
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        latents = self.latents(backbone, federation, data) if self.reach else None
        network = copy.deepcopy(head).requires_grad_(True)
        batch = self.head.batch_size
        n_latents = 0 if latents is None else max(1, batch // 2)

        def loss_of(generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(x_0), (batch,), generator=generator)
            label = with_some_hidden(known[rows], federation.num_classes, generator)
            if latents is None:
                return local_loss(network, federation.schedule, x_0[rows], label, t_cut, generator)
            which = torch.randint(len(latents), (n_latents,), generator=generator)
            own, other = rows[:n_latents], rows[n_latents:]
            aligned = aligned_loss(
                network, federation.schedule, latents[which, own], x_0[own], label[:n_latents], t_cut
            )
            if not len(other):
                return aligned
            plain = local_loss(network, federation.schedule, x_0[other], label[n_latents:], t_cut, generator)
            return (n_latents * aligned + len(other) * plain) / batch

        made = fit(
            network,
            loss_of,
            updates=self.total_updates,
            learning_rate=LATER_RATE * self.head.learning_rate,
            seed=self.seed,
            tell=tell,
        )
        return Trained(network, made)

    def latents(self, backbone: UNet, federation: Federation, data: LabelledImages) -> Tensor:
        """What the server makes of release 0 of these images of the client: (starts, N, C, H, W) float32."""
        holder = replace(federation.client(self.client), train=data)
        x_c = federation.released(holder, self.cut_ratio, seed=self.seed)[0]
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        return denoised_to_the_cut(
            federation.schedule, backbone, x_c, data.labels, t_cut, self.server, self.reach, seed=self.seed
        )
