"""What is minimised: by the server from releases or pairs, and by a client on its own clean images.

With labels and a network `UNet`, `predict` is the network itself: predict(x_t, t, label) → ε̂. Where something else is
known of each sample, a vector of attributes or an encoded text, it takes the label's place: `diffusion.guidance`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.arrays import column, gather
from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule
from diffusion.split import pair, pair_weight

Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def released_loss(
    predict: Predict,
    schedule: NoiseSchedule,
    x_c: Tensor,
    t_cut: Tensor,
    label: Tensor | None,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact loss on released samples: mean of ‖√w·ε_θ(x_t, t) − ε_s‖², t uniform in (t_cut, T].

    x_c: (B, C, H, W) float32;  t_cut: (B,) int64 in [0, T), one cut per sample;  label: (B,) int64, or whatever else
    `predict` takes of each sample, or None;  generator: on the device of x_c; draws t and ε_s.

    Returns (loss () float32, t (B,) int64, per_sample (B,) float32, detached).
    """
    t = draw_steps(t_cut, torch.full_like(t_cut, schedule.T), generator)
    noise = torch.randn(x_c.shape, generator=generator, device=x_c.device, dtype=x_c.dtype)
    x_t = pair(schedule, x_c, t_cut, t, noise)
    loss, per_sample = _weighted(predict(x_t, t, label), noise, pair_weight(schedule, t_cut, t))
    return loss, t, per_sample


def pairs_loss(
    predict: Predict,
    schedule: NoiseSchedule,
    x_t: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    t_cut: Tensor,
    label: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same loss on pairs that the client made itself (release policy "pairs").

    x_t, noise: (B, C, H, W) float32, noise the ε_s of the pair; t, t_cut: (B,) int64, t_cut < t ≤ T.
    Returns as `released_loss`.
    """
    loss, per_sample = _weighted(predict(x_t, t, label), noise, pair_weight(schedule, t_cut, t))
    return loss, t, per_sample


def local_loss(
    predict: Predict,
    schedule: NoiseSchedule,
    x0: Tensor,
    label: Tensor | None,
    t_cut: int,
    generator: torch.Generator,
) -> Tensor:
    """A head's loss on clean images: mean of ‖ε_θ(x_t, t) − ε‖², t uniform in [1, t_cut].

    The plain loss of Ho et al. (2020, eq. 14), on the steps the client owns.

    x0: (B, C, H, W) float32 in [-1, 1];  label: as for `released_loss`;  t_cut: in [1, T];  generator: on the device
    of x0.  Returns () float32.  Raises DiffusionError when the head would own no step.
    """
    if not 1 <= t_cut <= schedule.T:
        raise DiffusionError(
            f"a head owns the steps 1 to {t_cut}, which is none within 1 to {schedule.T}: choose another cut"
        )
    ends = torch.full((len(x0),), t_cut, dtype=torch.int64, device=x0.device)
    t = draw_steps(torch.zeros_like(ends), ends, generator)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    alpha_bar = gather(schedule.alpha_bar, t)
    x_t = column(alpha_bar**0.5, x0) * x0 + column((1 - alpha_bar) ** 0.5, x0) * noise
    return functional.mse_loss(predict(x_t, t, label), noise)


def draw_steps(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Draw t uniform in (low, high], a range per sample.  low, high: (B,) int64.  Returns (B,) int64."""
    if bool((low >= high).any()):
        raise DiffusionError(
            "no step lies above the cut of some samples: there is nothing to learn from them"
        )
    u = torch.rand(low.shape, generator=generator, device=low.device, dtype=torch.float64)
    return low + 1 + (u * (high - low)).long()


def _weighted(predicted: Tensor, noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over pixels of ‖√w·ε̂ − ε_s‖², of the batch and per sample."""
    residual = column(weight**0.5, predicted) * predicted - noise
    per_sample = residual.square().flatten(1).mean(dim=1)
    return per_sample.mean(), per_sample.detach()
