"""Hand-offs with ideal networks: what a scheme that cuts the chain would give if every network had learned perfectly.

For data from a Gaussian the best predictor of noise is known,

    ε*(x, t) = √(1-ᾱ_t)·(ᾱ_t·Σ + (1-ᾱ_t)·I)⁻¹·(x − √ᾱ_t·μ),

and a DDIM chain of it is an affine map of x_T, along every principal direction by itself. So two runs, from 0 and from 1, tell
the Gaussian that a scheme lands on, and its distance to the data's is the error of the hand-off and of the steps alone, with
no training and no sampling in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.experiments.baselines.double_noising import patched_start
from evaluation.metrics.disclosure import Prior

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Along principal directions. mean, variance: (d,) float64, variance > 0."""

    mean: Numbers
    variance: Numbers

    @classmethod
    def of(cls, prior: Prior) -> "Gaussian":
        """The Gaussian fitted to images, in its own directions."""
        return cls(prior.mean @ prior.directions, prior.variances)

    def released(self, alpha_bar: float) -> "Gaussian":
        """That of √ᾱ·x_0 + √(1-ᾱ)·ε."""
        return Gaussian(np.sqrt(alpha_bar) * self.mean, alpha_bar * self.variance + 1.0 - alpha_bar)

    def distance(self, other: "Gaussian") -> float:
        """Fréchet distance of two that share their directions: ‖μ_a − μ_b‖² + Σ(σ_a − σ_b)²."""
        shift = ((self.mean - other.mean) ** 2).sum()
        return float(shift + ((np.sqrt(self.variance) - np.sqrt(other.variance)) ** 2).sum())


@dataclass(frozen=True)
class Stretch:
    """A part of a chain run by the ideal network for `data`, as if its steps were start … stop of the schedule."""

    data: Gaussian
    start: int
    stop: int
    evaluations: int


def landed(schedule: NoiseSchedule, stretches: tuple[Stretch, ...]) -> Gaussian:
    """Where DDIM from N(0, I) ends after all stretches, one after the other."""
    ends: Any = np.stack([np.zeros_like(stretches[0].data.mean), np.ones_like(stretches[0].data.mean)])
    for part in stretches:
        steps = plan(schedule, part.start, part.stop, part.evaluations)
        ends = run(schedule, _predictor(schedule, part.data), ends, steps)
    return Gaussian(ends[0], (ends[1] - ends[0]) ** 2)


def hand_off_errors(
    schedule: NoiseSchedule, data: Gaussian, cut_ratio: float, server_steps: int, head_steps: int
) -> dict[str, float]:
    """Fréchet distance to the data for every scheme, by the names that rivals have.

    server_steps, head_steps: evaluations of the two sides, the same for all schemes.
    """
    cut = Cut(schedule, cut_ratio)
    T, t_cut = schedule.T, cut.t_cut
    releases = data.released(float(schedule.alpha_bar[t_cut]))
    head = Stretch(data, t_cut, 0, head_steps)
    schemes = {
        "CollaFuse Edge": (Stretch(data, T, t_cut, server_steps), head),
        "double noising": (Stretch(releases, T, t_cut, server_steps), head),
        "double noising, patched": (
            Stretch(releases, T, t_cut, server_steps),
            Stretch(data, patched_start(cut), 0, head_steps),
        ),
        "PFDM's two chains": (Stretch(releases, T, 0, server_steps), head),
    }
    return {name: data.distance(landed(schedule, parts)) for name, parts in schemes.items()}


def _predictor(schedule: NoiseSchedule, data: Gaussian) -> Callable[[Any, Any], Any]:
    def predict(x: Any, t: Any) -> Any:
        alpha_bar = schedule.alpha_bar[t][:, None]
        spread = alpha_bar * data.variance + 1.0 - alpha_bar
        return np.sqrt(1.0 - alpha_bar) * (x - np.sqrt(alpha_bar) * data.mean) / spread

    return predict
