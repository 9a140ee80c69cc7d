"""Noise schedules: how much of the image is left at every step of the chain.

`t` runs from 0 (clean) to T (noise), and x_t = √ᾱ_t·x_0 + √(1-ᾱ_t)·ε  (Ho et al. 2020, eq. 4).
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from diffusion.arrays import Float64
from diffusion.errors import DiffusionError

SCHEDULES = ("cosine", "linear")
MAX_STEPS = 100_000
"""Longest chain: T arrives over the wire, and a table is allocated for it."""

_MAX_BETA = 0.999
_ID_DIGITS = 6


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A table of ᾱ, and a name for people.

    name: "cosine", "linear", or whatever describes a table of your own.
    alpha_bar: (T+1,) float64, ᾱ_0 = 1, strictly decreasing, ᾱ_T > 0. Copied and made read-only.

    Raises DiffusionError for any other table.
    """

    name: str
    alpha_bar: Float64
    T: int = field(init=False)
    schedule_id: str = field(init=False)
    """What two parties compare to know that they mean the same chain; see `_identify`."""

    def __post_init__(self) -> None:
        table = np.array(self.alpha_bar, dtype=np.float64)
        _check_table(self.name, table)
        table.flags.writeable = False
        object.__setattr__(self, "alpha_bar", table)
        object.__setattr__(self, "T", len(table) - 1)
        object.__setattr__(self, "schedule_id", _identify(table))

    @property
    def log_snr(self) -> Float64:
        """log(ᾱ/(1-ᾱ)) at every step: (T+1,) float64, +inf at t = 0."""
        with np.errstate(divide="ignore"):
            log_snr: Float64 = np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)
        return log_snr

    @classmethod
    def cosine(cls, T: int = 1000) -> "NoiseSchedule":
        """ᾱ_t ∝ cos²((t/T + 0.008)/1.008·π/2), with β ≤ 0.999  (Nichol & Dhariwal 2021, eq. 17)."""
        _check_steps(T)
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        return cls("cosine", _from_betas(1 - f[1:] / f[:-1]))

    @classmethod
    def linear(cls, T: int = 1000) -> "NoiseSchedule":
        """β from 1e-4 to 0.02 in equal steps (Ho et al. 2020, §4).

        The end points are multiplied by 1000/T, so that a chain of another length destroys the same amount
        of signal; β is capped at 0.999, which only chains shorter than 21 steps notice.
        """
        _check_steps(T)
        return cls("linear", _from_betas(np.linspace(1e-4, 0.02, T) * (1000 / T)))

    @classmethod
    def named(cls, name: str, T: int = 1000) -> "NoiseSchedule":
        """The schedule called `name`; DiffusionError when there is none."""
        if name == "cosine":
            return cls.cosine(T)
        if name == "linear":
            return cls.linear(T)
        raise DiffusionError(f"no schedule is called {name!r}: choose one of {', '.join(SCHEDULES)}")


def _from_betas(betas: Float64) -> Float64:
    table: Float64 = np.concatenate(([1.0], np.cumprod(1 - np.minimum(betas, _MAX_BETA))))
    return table


def _check_steps(T: int) -> None:
    if not 1 <= T <= MAX_STEPS:
        raise DiffusionError(f"a chain of {T} steps is not possible: T must lie in [1, {MAX_STEPS}]")


def _check_table(name: str, table: Float64) -> None:
    if table.ndim != 1 or not 2 <= len(table) <= MAX_STEPS + 1:
        raise DiffusionError(
            f"schedule {name!r} has shape {table.shape}: expected (T+1,), 1 <= T <= {MAX_STEPS}"
        )
    falls = bool(np.all(np.diff(table) < 0))
    if not (table[0] == 1.0 and falls and table[-1] > 0):
        raise DiffusionError(
            f"schedule {name!r} is no noise schedule: ᾱ must fall strictly from 1 and stay above 0"
        )


def _identify(table: Float64) -> str:
    """16 hex digits of SHA-256 over T and the table, rounded to six significant digits.

    The cosine differs in its last bits between mathematical libraries, and a cumulative product gathers such
    differences to some 1e-13. A rounded value changes when a rounding boundary lies between the two results;
    with six digits that happens to one table of a thousand entries in some thousands of pairs of machines
    that differ at all, with twelve it would happen to most. Two tables that agree to six digits describe the
    same chain for every practical purpose.
    """
    rounded = np.array([float(f"{value:.{_ID_DIGITS - 1}e}") for value in table], dtype="<f8")
    digest = hashlib.sha256(b"collafuse-schedule-v1")
    digest.update((len(table) - 1).to_bytes(8, "little"))
    digest.update(rounded.tobytes())
    return digest.hexdigest()[:16]
