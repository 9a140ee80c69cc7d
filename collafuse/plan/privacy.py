"""From a price in ε to the cut that it takes, what that leaves to each side, and whether anything is promised at all."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.contract.fields import MAX_T
from collafuse.plan.errors import refused_by
from diffusion import ledger
from diffusion.schedule import NoiseSchedule

FALSE_POSITIVES = 0.01
"""The rate of error at which an attacker's success is stated, as in the literature on membership inference."""
OTHER_EPSILONS = (1.0, 3.0, 10.0, 30.0)
REMEDY_CUTS = (0.5, 0.7, 0.9)
LARGEST_USEFUL_EPSILON = 20.0
"""Here, with δ = 1e-5, the best attack finds nearly nine of ten while it is wrong in one of a hundred."""
LARGEST_USEFUL_DELTA = 1e-3
"""A promise that may fail so often is kept by sending so many of all images in the clear; 1e-5 is usual."""
LEAST_SERVER_SHARE = 0.05
"""Of the chain. With less the server's network has next to no signal to work on: a rule of thumb, no theorem."""

_IMAGE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,4})")


class PrivacyQuestion(BaseModel):
    """The price that an image's releases may have, and of what kind they are."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon: float = Field(gt=0, le=1e6, description="epsilon that all releases of one image may add up to")
    delta: float = Field(
        default=1e-5, ge=1e-15, lt=1, description="chance with which the promise may fail altogether"
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        le=1e6,
        description="L2 norm that images are clipped to, values being in [-1, 1]; without it --image says how large it can be",
    )
    image: str | None = Field(
        default=None, description="channels, height and width of an image, such as 3x64x64"
    )
    releases: int = Field(default=1, ge=1, le=1000, description="releases of one image in its life")
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="noise schedule")
    timesteps: int = Field(default=1000, ge=2, le=MAX_T, description="T of that schedule")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise ValueError(f"--image: channels, height and width such as 3x64x64, not {self.image}")
        if self.image is None and self.clip_norm is None:
            raise ValueError("how large an image can be is not known: give --image 3x64x64 or --clip-norm")
        return self

    @classmethod
    def of(cls, **flags: Any) -> Self:
        """A question from the flags that were given. Raises PlanRefused, one line that names the option."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            raise refused_by(error) from None

    @property
    def widest(self) -> float | None:
        """√(C·H·W), the norm of the largest image; None where its shape is not known."""
        match = _IMAGE.fullmatch(self.image or "")
        return math.sqrt(math.prod(map(int, match.groups()))) if match else None

    @property
    def norm(self) -> float:
        """The C that holds for every image."""
        return min(norm for norm in (self.clip_norm, self.widest) if norm is not None)


@dataclass(frozen=True)
class Price:
    """What a cut costs, and what is left to each side.

    cut_ratio: the client's share of the chain;  server_share: the rest;  sigma: the noise in units of the image's values;
    snr_db: 10·log10(ᾱ_c/(1-ᾱ_c));  epsilon: what the releases cost there, at most what was asked;
    detection: the most that an attacker gets right who is wrong in 1 % of cases, in [0, 1].
    """

    t_cut: int
    cut_ratio: float
    server_share: float
    sigma: float
    snr_db: float
    epsilon: float
    detection: float


@dataclass(frozen=True)
class Remedy:
    """A clip norm at which a cut costs no more than was asked. kept: its share of the norm that holds now, below 1."""

    cut_ratio: float
    clip_norm: float
    kept: float


@dataclass(frozen=True)
class PrivacyPlan:
    """The answer.

    norm: C;  target: at the least cut for the ε that was asked, None where no cut does;
    at_last_cut: ε at t = T-1, the least that this chain can cost;
    others: for `OTHER_EPSILONS`, as pairs with what was asked;  remedies: smaller norms, at earlier cuts;
    single: with one release instead of several, None where there is but one or it does not help;
    objections: why the promise is of no use; empty where it is.
    """

    norm: float
    target: Price | None
    at_last_cut: float
    others: tuple[tuple[float, Price | None], ...]
    remedies: tuple[Remedy, ...]
    single: Price | None
    objections: tuple[str, ...]


def plan_privacy(question: PrivacyQuestion) -> PrivacyPlan:
    """Answer a question, exactly as the ledger of a device will count."""
    schedule = NoiseSchedule.named(question.schedule, question.timesteps)
    target = _price(question, schedule, question.epsilon)
    last = ledger.epsilon(question.norm, schedule.T - 1, schedule, question.delta, question.releases)
    return PrivacyPlan(
        norm=question.norm,
        target=target,
        at_last_cut=last,
        others=tuple((epsilon, _price(question, schedule, epsilon)) for epsilon in OTHER_EPSILONS),
        remedies=_remedies(question, schedule, target),
        single=None if question.releases == 1 else _price(question, schedule, question.epsilon, releases=1),
        objections=tuple(_objections(question, target, last)),
    )


def _price(
    question: PrivacyQuestion, schedule: NoiseSchedule, epsilon: float, *, releases: int | None = None
) -> Price | None:
    count = question.releases if releases is None else releases
    t_cut = ledger.least_cut(epsilon, question.norm, schedule, question.delta, count)
    if t_cut is None:
        return None
    mu = ledger.gdp_mu(question.norm, t_cut, schedule, count)
    sigma = 2 * question.norm * math.sqrt(count) / mu
    return Price(
        t_cut=t_cut,
        cut_ratio=t_cut / schedule.T,
        server_share=(schedule.T - t_cut) / schedule.T,
        sigma=sigma,
        snr_db=-20 * math.log10(sigma),
        epsilon=ledger.epsilon_of_mu(mu, question.delta),
        detection=ledger.detection(mu, FALSE_POSITIVES),
    )


def _remedies(question: PrivacyQuestion, schedule: NoiseSchedule, target: Price | None) -> tuple[Remedy, ...]:
    mu = ledger.mu_of_epsilon(question.epsilon, question.delta)
    found = []
    for ratio in REMEDY_CUTS:
        t_cut = round(ratio * schedule.T)
        if 0 < t_cut < (schedule.T if target is None else target.t_cut):
            # μ grows with C in proportion.
            norm = mu / ledger.gdp_mu(1.0, t_cut, schedule, question.releases)
            found.append(Remedy(ratio, norm, norm / question.norm))
    return tuple(found)


def _objections(question: PrivacyQuestion, target: Price | None, last: float) -> list[str]:
    if target is None:
        return [
            f"no cut of this chain costs so little: even the last, t = {question.timesteps - 1}, costs ε = {last:.3g}"
        ]
    found = []
    if question.epsilon > LARGEST_USEFUL_EPSILON:
        found.append(
            f"ε above {LARGEST_USEFUL_EPSILON:g} promises nothing to rely on: "
            f"what is guessed in 1 % of cases without the releases may be known in {100 * target.detection:.3g} % with them"
        )
    if question.delta > LARGEST_USEFUL_DELTA:
        found.append(
            f"δ above {LARGEST_USEFUL_DELTA:g} promises nothing to rely on: "
            f"it is kept by whoever sends {100 * question.delta:.3g} % of the images in the clear"
        )
    if target.server_share < LEAST_SERVER_SHARE:
        found.append(
            f"the cut leaves the server {100 * target.server_share:.2g} % of the chain, at {target.snr_db:.0f} dB: "
            "next to nothing to learn from or to do"
        )
    return found
