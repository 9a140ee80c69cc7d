"""The papers' own way of sending: a fresh noisy copy of every image in every epoch, with the noise that was added last."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor

from diffusion.objective import pairs_loss
from diffusion.split import Cut
from evaluation.experiments.releases.upload import ClientPairs, pairs_of_epoch
from evaluation.running.federation import Federation
from evaluation.running.fitting import Tell, new_network, unet_config
from evaluation.running.trainings import Budget, Trained, fitted, with_some_hidden


def epochs_of(budget: Budget, images: int) -> int:
    """How often every image is sent: once for each epoch that the updates begin."""
    return -(-budget.updates * budget.batch_size // images)


@dataclass(frozen=True)
class PairsTraining:
    """A backbone on the policy `pairs`: every sample is seen once, in the epoch that it was made for.

    Each epoch holds one pair (x_t, ε_s, t) of every image, from a release of its own (index = epoch), in an order drawn anew.
    The loss is the exact one, so what differs from `BackboneTraining` is what was sent and nothing else.
    """

    cut_ratio: float
    budget: Budget
    seed: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return f"backbone at cut {self.cut_ratio:g}, fresh pairs in every epoch"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on what all clients send, epoch by epoch."""
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        config = unet_config(federation.shape, self.budget.width, federation.num_classes)
        network = new_network(config, self.seed)
        samples = self.samples(federation)

        def loss_of(generator: torch.Generator) -> Tensor:
            batch = zip(*islice(samples, self.budget.batch_size), strict=True)
            x_t, noise, t, known = (torch.stack(part) for part in batch)
            label = with_some_hidden(known, federation.num_classes, generator)
            cuts = torch.full_like(t, t_cut)
            return pairs_loss(network, federation.schedule, x_t, noise, t, t_cut=cuts, label=label)[0]

        return fitted(network, loss_of, self.budget, self.seed, tell)

    def samples(self, federation: Federation) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What the server learns from, in its order and without end: (x_t, ε_s, t, label) of one image after another.

        x_t, ε_s: (C, H, W) float32;  t, label: () int64.
        """
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        for epoch in count():
            drawn = np.random.default_rng((self.seed, 5, epoch))
            sent = [
                federation.releases(client, self.cut_ratio, epoch, seed=self.seed)
                for client in federation.clients
            ]
            parts = [pairs_of_epoch(federation, releases, t_cut, drawn) for releases in sent]
            rows = [row for part in parts for row in _rows(part)]
            yield from (rows[i] for i in drawn.permutation(len(rows)))


def _rows(pairs: ClientPairs) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    t, labels = (torch.from_numpy(values.astype(np.int64)) for values in (pairs.t, pairs.labels))
    return zip(torch.from_numpy(pairs.x_t), torch.from_numpy(pairs.noise), t, labels, strict=True)
