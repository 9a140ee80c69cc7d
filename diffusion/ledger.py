"""What releases cost: their price in μ and in ε, exactly, and the earliest cut that a price allows.

A release is the Gaussian mechanism on the clipped image. With images of L2 norm at most C, and any image
replaceable by any other, its sensitivity is 2C and its noise multiplier σ = √((1-ᾱ_c)/ᾱ_c); K releases are
μ-GDP with μ = 2C·√K/σ (Dong, Roth & Su 2019), hence (ε, δ)-private with exactly δ(ε) = Φ(−ε/μ + μ/2) −
e^ε·Φ(−ε/μ − μ/2) (Balle & Wang 2018).
"""

import math
from statistics import NormalDist

from diffusion.errors import DiffusionError
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut


def sigma(cut: Cut) -> float:
    """σ = √((1-ᾱ_c)/ᾱ_c): the noise of a release in units of the image's values; 0 at t_c = 0."""
    return _sigma(cut.schedule, cut.t_cut)


def norm_bound(clip_norm: float | None, shape: tuple[int, ...]) -> float:
    """The C that holds for clipped images of this shape: the clip norm, and never more than √(C·H·W)."""
    widest = math.sqrt(math.prod(shape))
    return widest if clip_norm is None else min(clip_norm, widest)


def gdp_mu(clip: float, t_cut: int, schedule: NoiseSchedule, releases: int = 1) -> float:
    """μ = 2C·√K/σ of K releases of one image; infinite at t_cut = 0. The squares of several μ add up."""
    if not clip > 0 or releases < 0 or not 0 <= t_cut <= schedule.T:
        raise DiffusionError(
            f"no ledger for norm {clip}, cut {t_cut} and {releases} releases: check the three"
        )
    if releases == 0:
        return 0.0
    noise = _sigma(schedule, t_cut)
    return 2 * clip * math.sqrt(releases) / noise if noise > 0 else math.inf


def epsilon(clip: float, t_cut: int, schedule: NoiseSchedule, delta: float, releases: int = 1) -> float:
    """The exact ε of K releases of one image at `delta`.

    clip: C, the L2 norm images are clipped to;  t_cut: 0 … T;  delta: in (0, 1);  releases: K ≥ 0.

    Returns ε ≥ 0, infinite at t_cut = 0. An ε in the hundreds or more promises nothing: say so to whoever
    reads it.
    """
    return epsilon_of_mu(gdp_mu(clip, t_cut, schedule, releases), delta)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """The ε at which a μ-GDP mechanism is (ε, delta)-private, by bisection to relative 1e-12."""
    if not 0 < delta < 1:
        raise DiffusionError(f"delta {delta} is no probability of failure: choose one above 0 and below 1")
    if not mu >= 0:
        raise DiffusionError(f"no ledger for μ {mu}: it is a number from 0 upwards")
    if math.isinf(mu):
        return math.inf
    if mu == 0 or _delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high


def mu_of_epsilon(target: float, delta: float) -> float:
    """The largest μ whose ε at `delta` is at most `target`: the inverse of `epsilon_of_mu`, by bisection to relative 1e-12.

    target: ε > 0;  delta: in (0, 1).
    """
    _check_target(target)
    low, high = 0.0, 1.0
    while epsilon_of_mu(high, delta) <= target:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if epsilon_of_mu(middle, delta) <= target else (low, middle)
    return low


def least_cut(
    target: float, clip: float, schedule: NoiseSchedule, delta: float, releases: int = 1
) -> int | None:
    """The earliest cut at which K releases of one image cost no more than `target`: the least t_cut with ε ≤ target.

    target: ε > 0;  clip: C, the L2 norm images are clipped to;  delta: in (0, 1);  releases: K ≥ 0.

    Returns t_cut in [1, T-1], or None where not even the last of them does; exact, since ε falls with t_cut.
    """
    _check_target(target)
    last = schedule.T - 1
    if last < 1 or epsilon(clip, last, schedule, delta, releases) > target:
        return None
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if epsilon(clip, middle, schedule, delta, releases) > target else (low, middle)
        )
    return high


def detection(mu: float, false_positives: float) -> float:
    """The most that anybody can know of what was released: the true positive rate of the best test between two images.

    Whoever has both candidates, the release and any amount of time names the right one no more often than Φ(Φ⁻¹(α) + μ)
    when wrong at rate α (the trade-off function of Dong, Roth & Su 2019, §2.2), whether what is asked is membership, an attribute
    or a link.

    mu: of all releases of the image together, may be infinite;  false_positives: α in (0, 1).  Returns a rate in [α, 1].
    """
    if not (mu >= 0 and 0 < false_positives < 1):
        raise DiffusionError(
            f"no test is described by μ {mu} and false positives {false_positives}: give μ ≥ 0 and a rate between 0 and 1"
        )
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(false_positives) + mu) if math.isfinite(mu) else 1.0


def _check_target(target: float) -> None:
    if not 0 < target < math.inf:
        raise DiffusionError(f"no noise is chosen by an ε of {target}: choose a finite target above 0")


def _sigma(schedule: NoiseSchedule, t_cut: int) -> float:
    alpha_bar = float(schedule.alpha_bar[t_cut])
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def _delta(epsilon: float, mu: float) -> float:
    """δ(ε) of a μ-GDP mechanism.

    e^ε·Φ(b) is written as φ(a)·M(−b), with a = −ε/μ + μ/2, b = −ε/μ − μ/2 and Mills' ratio M(x) =
    Φ(−x)/φ(x), since e^ε overflows for the large ε of a small cut.
    """
    a, b = -epsilon / mu + mu / 2, -epsilon / mu - mu / 2
    density = math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return math.erfc(-a / math.sqrt(2)) / 2 - density * _mills_ratio(-b)


def _mills_ratio(x: float) -> float:
    """Φ(−x)/φ(x) for x ≥ 0: directly, and by Laplace's continued fraction where erfc would underflow."""
    if x < 20:
        return math.sqrt(math.pi / 2) * math.exp(x * x / 2) * math.erfc(x / math.sqrt(2))
    fraction = x
    for k in range(20, 0, -1):
        fraction = x + k / fraction
    return 1 / fraction
