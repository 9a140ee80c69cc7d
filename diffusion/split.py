"""The cut: who owns which part of the chain, and the exact hand-off between them.

    release   x_c = √ᾱ_c·x_0 + √(1-ᾱ_c)·ε_c                  made on the device; ε_c never leaves it
    pair      x_t = √r·x_c + √(1-r)·ε_s,   r = ᾱ_t/ᾱ_c       t_c < t ≤ T
    weight    w   = (1-r)/(1-ᾱ_t)                            L = ‖√w·ε_θ(x_t, t) − ε_s‖²

A pair lies on the chain at t exactly: √r·√ᾱ_c = √ᾱ_t, and the noise of both steps adds up to variance 1-ᾱ_t.
The weight follows from Tweedie's formula (Efron 2011): both noises are the same score of p_t, scaled by
√(1-r) and by √(1-ᾱ_t), so the minimiser is the noise predictor of the whole chain, whatever the cut.

The cut ratio is the *client's* share of the chain: t_c = round(c·T), the head owns [1, t_c], the server
(t_c, T].
"""

from dataclasses import dataclass
from typing import Any

from diffusion.arrays import ArrayT, column, gather, on_host
from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Cut:
    """A schedule, cut at the client's share of it.

    cut_ratio: c in [0, 1]. 1 keeps the whole chain on the client, 0 leaves all of it to the server.
    """

    schedule: NoiseSchedule
    cut_ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.cut_ratio <= 1:
            raise DiffusionError(f"cut ratio {self.cut_ratio} is no share of a chain: choose one in [0, 1]")

    @property
    def t_cut(self) -> int:
        """t_c = round(c·T), the last step the client owns."""
        return round(self.cut_ratio * self.schedule.T)

    def release(self, x0: ArrayT, noise: ArrayT) -> ArrayT:
        """x_c = √ᾱ_c·x_0 + √(1-ᾱ_c)·ε_c.

        This is the arithmetic only. What leaves a device is made by `privacy.release`, which clips the image
        and chooses the noise.

        x0: (B, ...) or (C, H, W) float, already clipped;  noise: the same shape, standard normal.
        """
        alpha_bar = float(self.schedule.alpha_bar[self.t_cut])
        clean: Any = x0
        x_c: ArrayT = alpha_bar**0.5 * clean + (1 - alpha_bar) ** 0.5 * noise
        return x_c

    def pair(self, x_c: ArrayT, t: Any, noise: ArrayT) -> ArrayT:
        """x_t for every sample; see the module's `pair`."""
        return pair(self.schedule, x_c, self.t_cut, t, noise)

    def weight(self, t: Any) -> Any:
        """Weigh every t: (B,) float64; see `pair_weight`."""
        return pair_weight(self.schedule, self.t_cut, t)


def ratio(schedule: NoiseSchedule, t_cut: Any, t: Any) -> Any:
    """Give r = ᾱ_t/ᾱ_c, the share of the released signal's power that is left at t.

    t_cut: int or (B,) integers in [0, T);  t: (B,) integers with t_cut < t ≤ T. Array or tensor, both of one
    kind.

    Returns (B,) float64 in (0, 1), of the kind of t.  Raises DiffusionError for a t the server does not own.
    """
    first, last = on_host(t_cut), on_host(t)
    if bool((first < 0).any()) or bool((last <= first).any()) or bool((last > schedule.T).any()):
        raise DiffusionError(
            f"the server owns the steps above the cut, up to {schedule.T}: every t must lie there"
        )
    return gather(schedule.alpha_bar, t) / gather(schedule.alpha_bar, t_cut)


def pair(schedule: NoiseSchedule, x_c: ArrayT, t_cut: Any, t: Any, noise: ArrayT) -> ArrayT:
    """x_t = √r·x_c + √(1-r)·ε_s, every sample with a cut and a t of its own.

    x_c, noise: (B, ...) float, ε_s standard normal;  t_cut: int or (B,) integers;  t: (B,) integers in
    (t_cut, T].
    """
    r = ratio(schedule, t_cut, t)
    released: Any = x_c
    x_t: ArrayT = column(r**0.5, x_c) * released + column((1 - r) ** 0.5, x_c) * noise
    return x_t


def pair_weight(schedule: NoiseSchedule, t_cut: Any, t: Any) -> Any:
    """Weigh with w = (1-r)/(1-ᾱ_t): (B,) float64 in (0, 1], of the kind of t; 1 for a cut at 0."""
    r = ratio(schedule, t_cut, t)
    return (1 - r) / (1 - gather(schedule.alpha_bar, t))
