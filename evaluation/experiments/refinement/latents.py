"""Hand-off refinement: what the server really hands a client for its own images, and the loss of learning from it.

Steps 4 to 6 of the papers' loop, made precise. The server holds the release x_c of an image x_0. It noises it further to a step
t of its own plan, x_t = √r x_c + √(1-r) ε_s, and denoises that back to the cut with the plan's remaining evaluations. What comes
out, x̂_c, belongs to x_0. The client, who alone has x_0, regresses its head at t_c on the noise that x̂_c would have to hold:

    ε* = (x̂_c − √ᾱ_c x_0)/√(1-ᾱ_c),      L = ‖ε_φ(x̂_c, t_c) − ε*‖² = ᾱ_c/(1-ᾱ_c) · ‖x̂_0(x̂_c) − x_0‖²

What is assumed: that x̂_c tells of x_0 what a release does. It tells less. All that x̂_c knows of x_0 came through x_t, so the
loss is least at E[x_0 | x_t], which is blurred more than E[x_0 | x_c] the further t lies above the cut; for x_0 ~ N(0, s²) and an
exact server it is the right answer times √(r v_c/v_t), v_t = ᾱ_t s² + 1 - ᾱ_t. Near the cut the assumption holds and little of
the server's error is seen; from x_T, which knows nothing of x_0, the head learns to answer with the mean of its images.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffusion.network import UNet
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from diffusion.split import pair
from evaluation.running.generation import BATCH, StepPlan

STARTS = 4
"""From so many places of the server's plan, at most, every image is denoised."""

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,), label (B,)) → ε̂."""


def evaluations_left(evaluations: int, reach: float) -> tuple[int, ...]:
    """From where in a plan of so many evaluations the server starts, counted from its end: up to `STARTS`, evenly spread."""
    furthest = max(1, round(reach * evaluations))
    return tuple(sorted({math.ceil(furthest * k / STARTS) for k in range(1, STARTS + 1)}))


def denoised_to_the_cut(
    schedule: NoiseSchedule,
    backbone: Predict,
    x_c: NDArray[np.float32],
    labels: NDArray[np.int32],
    t_cut: int,
    server: StepPlan,
    reach: float,
    *,
    seed: int,
) -> Tensor:
    """x̂_c from every start: (starts, N, C, H, W) float32, made from the releases x_c alone.

    x_c: (N, C, H, W);  labels: (N,) int32;  server: the plan that images are made by, whose last places are gone through;
    seed: of ε_s, and of a sampler's own noise.
    """
    places = plan(schedule, schedule.T, t_cut, server.server_steps, server.spacing)
    label = torch.from_numpy(labels.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    batches = np.array_split(np.arange(len(x_c)), max(1, -(-len(x_c) // BATCH)))
    found = []
    for left in evaluations_left(len(places) - 1, reach):
        noise = torch.randn(x_c.shape, generator=generator)
        t = torch.full((len(x_c),), places[-1 - left])
        x_t = pair(schedule, torch.from_numpy(x_c), t_cut, t, noise)
        parts = [
            _run(schedule, backbone, x_t[rows], label[rows], places[-1 - left :], server, seed, rows)
            for rows in batches
        ]
        found.append(torch.cat(parts))
    return torch.stack(found)


def _run(
    schedule: NoiseSchedule,
    backbone: Predict,
    x_t: Tensor,
    label: Tensor,
    places: Sequence[int],
    server: StepPlan,
    seed: int,
    rows: NDArray[np.intp],
) -> Tensor:
    def predict(x: Tensor, t: Tensor) -> Tensor:
        with torch.inference_mode():
            return backbone(x, t, label)

    return run(
        schedule,
        predict,
        x_t,
        places,
        server.sampler,
        eta=server.eta,
        clip=server.clip,
        seeds=seed,
        samples=rows,
    ).clone()


def aligned_loss(
    head: Predict, schedule: NoiseSchedule, x_c: Tensor, x_0: Tensor, label: Tensor, t_cut: int
) -> Tensor:
    """Mean of ‖ε_φ(x̂_c, t_c) − ε*‖², () float32: the loss of x̂_0 against x_0, weighted by the signal-to-noise ratio at the cut.

    x_c: (B, C, H, W) latents of the images x_0;  label: (B,) int64.
    """
    alpha_bar = float(schedule.alpha_bar[t_cut])
    implied = (x_c - math.sqrt(alpha_bar) * x_0) / math.sqrt(1 - alpha_bar)
    return functional.mse_loss(head(x_c, torch.full((len(x_c),), t_cut), label), implied)


def answered(
    head: UNet, schedule: NoiseSchedule, x_c: Tensor, labels: NDArray[np.int32], t_cut: int
) -> NDArray[np.float32]:
    """x̂_0 as the head sees it in latents at the cut: (N, C, H, W) float32, clipped to [-1, 1]."""
    alpha_bar = float(schedule.alpha_bar[t_cut])
    with torch.inference_mode():
        noise = head(x_c, torch.full((len(x_c),), t_cut), torch.from_numpy(labels.astype(np.int64)))
        x_0 = (x_c - math.sqrt(1 - alpha_bar) * noise) / math.sqrt(alpha_bar)
    answer: NDArray[np.float32] = x_0.clamp(-1, 1).numpy()
    return answer
