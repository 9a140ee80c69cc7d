"""The hand-off of CollaFuse's papers as their published code has it (arXiv 2402.19105, 2406.14429; SimeonAllmendinger/collafuse).

The server noises the noisy release once more with the full ᾱ_t, as if it were a clean image,

    x = √ᾱ_t·x_c + √(1-ᾱ_t)·ε_s,      t in (t_c, T],

and learns ε_s from x as if it lay at t of the chain, by the plain loss. What it makes at t_c has the signal √(ᾱ_c·ᾱ_c), noisier
than the head expects at t_c. The published code makes up for that with a patch: the head is told to start at t_c·(2 - c), a step
that it was never trained on. Both are rivals: without the patch, as the papers have it, and with it.

Taken from elsewhere, so that only the hand-off differs from this system: one release of each image (the published code sends
a fresh one in every epoch), the head, the samplers and the bound on x̂_0, the step plan, and the rest of training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.arrays import column, gather
from diffusion.network import UNet
from diffusion.objective import draw_steps
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.running.federation import Federation
from evaluation.running.fitting import Tell, new_network, unet_config
from evaluation.running.trainings import BackboneTraining, Budget, Trained, fitted, with_some_hidden


@dataclass(frozen=True)
class DoubleNoisingTraining:
    """A server's network by the published hand-off, from the releases at one cut."""

    cut_ratio: float
    budget: Budget
    seed: int

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return f"double-noised backbone at cut {self.cut_ratio:g}"

    @property
    def total_updates(self) -> int:
        """Optimiser updates in all."""
        return self.budget.updates

    def train(self, federation: Federation, tell: Tell) -> Trained:
        """Trains on the same releases as this system's backbone of this cut."""
        x_c, labels = BackboneTraining(self.cut_ratio, self.budget, self.seed).samples(federation)
        t_cut = Cut(federation.schedule, self.cut_ratio).t_cut
        network = new_network(
            unet_config(federation.shape, self.budget.width, federation.num_classes), self.seed
        )
        samples, known = torch.from_numpy(x_c), torch.from_numpy(labels).long()

        def loss_of(generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(samples), (self.budget.batch_size,), generator=generator)
            label = with_some_hidden(known[rows], federation.num_classes, generator)
            return double_noising_loss(network, federation.schedule, samples[rows], t_cut, label, generator)

        return fitted(network, loss_of, self.budget, self.seed, tell)


def double_noised(schedule: NoiseSchedule, x_c: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """√ᾱ_t·x_c + √(1-ᾱ_t)·ε_s.  x_c, noise: (B, C, H, W) float32;  t: (B,) int64."""
    alpha_bar = gather(schedule.alpha_bar, t)
    x: Tensor = column(alpha_bar**0.5, x_c) * x_c + column((1 - alpha_bar) ** 0.5, x_c) * noise
    return x


def double_noising_loss(
    network: UNet,
    schedule: NoiseSchedule,
    x_c: Tensor,
    t_cut: int,
    label: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean of ‖ε_θ(x, t) − ε_s‖², t uniform in (t_c, T]; () float32.

    t_cut: 0 with clean images as x_c is DDPM's loss (Ho et al. 2020, eq. 14).
    """
    first = torch.full((len(x_c),), t_cut, dtype=torch.int64)
    t = draw_steps(first, torch.full_like(first, schedule.T), generator)
    noise = torch.randn(x_c.shape, generator=generator, dtype=x_c.dtype)
    return functional.mse_loss(network(double_noised(schedule, x_c, t, noise), t, label), noise)


def patched_start(cut: Cut) -> int:
    """t_c·(2 - c), rounded, where the patched head starts."""
    return round(cut.t_cut * (2 - cut.cut_ratio))
