"""What an attacker trains: a network that reconstructs; and a network that has learned its images by heart, as a control."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.split import Cut
from evaluation.attacks.prior import shrunk_prior
from evaluation.attacks.reconstruction import learned_loss
from evaluation.data.images import LabelledImages, concatenate
from evaluation.errors import DataError
from evaluation.running.federation import Federation
from evaluation.running.fitting import Tell, new_network, unet_config
from evaluation.running.trainings import BackboneTraining, Budget, Trained, TrainingOnReleases, fitted

MEMORISED_IMAGES = 16


def own_images(federation: Federation) -> LabelledImages:
    """The attacker's own: the held-out images of all clients, of the same kind as those attacked and none of them."""
    return concatenate([client.held_out for client in federation.clients])


@dataclass(frozen=True)
class ReconstructorTraining:
    """One network for all cuts, which corrects the best linear guess of x_0 from x_c.

    cuts: shares of the chain, above 0 each; every update is of one of them, drawn at random.
    """

    cuts: tuple[float, ...]
    budget: Budget
    seed: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return "an attacker's reconstruction"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the attacker's images, noised afresh for every update."""
        own = own_images(federation).images
        prior = shrunk_prior(own)
        steps = [Cut(federation.schedule, cut).t_cut for cut in self.cuts]
        if not steps or min(steps) < 1:
            raise DataError(f"nothing is hidden at some of the cuts {self.cuts}: give cuts above 0")
        network = new_network(unet_config(federation.shape, self.budget.width, None), self.seed)

        def loss_of(generator: torch.Generator) -> Tensor:
            t_cut = steps[int(torch.randint(len(steps), (), generator=generator))]
            rows = torch.randint(len(own), (self.budget.batch_size,), generator=generator).numpy()
            alpha_bar = float(federation.schedule.alpha_bar[t_cut])
            return learned_loss(network, own[rows], t_cut, alpha_bar, prior, generator)

        return fitted(network, loss_of, self.budget, self.seed, tell)


@dataclass(frozen=True)
class MemorisedTraining(TrainingOnReleases):
    """A network overfitted on purpose on what a few images look like at a cut; at cut ratio 0, on the images themselves."""

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        what = f"releases at cut {self.cut_ratio:g}" if self.cut_ratio else "images"
        return f"a network overfitted on {MEMORISED_IMAGES} {what}"

    def samples(self, federation: Federation) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """One release of each of its images, (n, C, H, W) float32, and their labels, (n,) int32."""
        x_c, labels = BackboneTraining(self.cut_ratio, self.budget, self.seed).samples(federation)
        rows = self.rows(federation)
        return x_c[rows], labels[rows]

    def rows(self, federation: Federation) -> NDArray[np.intp]:
        """Which of the pooled training images it has learned by heart."""
        return self._order(federation)[:MEMORISED_IMAGES]

    def members(self, federation: Federation) -> LabelledImages:
        """These images."""
        return federation.pooled.take(self.rows(federation))

    def not_shown(self, federation: Federation, most: int) -> LabelledImages:
        """Other training images of the same clients, of which it has seen nothing: a random `most` of them, or all."""
        others = self._order(federation)[MEMORISED_IMAGES:]
        return federation.pooled.take(others[:most])

    def _order(self, federation: Federation) -> NDArray[np.intp]:
        return np.random.default_rng((self.seed, 13)).permutation(len(federation.pooled))
