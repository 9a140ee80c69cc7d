"""What the cut sweep allows to be said."""

import math
from collections.abc import Sequence
from statistics import fmean

from evaluation.experiments.sweep.disclosure import Controls
from evaluation.experiments.sweep.point import FIXED, PROPORTIONAL, CutPoint, SideCosts
from evaluation.measuring.quality import COLUMNS, Figure, Real
from evaluation.measuring.verdicts import Named, Pair, against, pairwise
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Better, Column, Finding, Weight

ERROR = Column("mean squared error", "", Better.MORE, 3)
"""Of what the server holds: more of it gives away less."""
FURTHER = Column("KID", "", Better.MORE, 3)
"""Likewise."""
CHANCE_REACH = 4.0
"""Standard errors within which a control that must fail has failed."""


def control_findings(controls: Sequence[Controls]) -> list[Finding]:
    """The reconstruction must succeed on the clean image and fail on noise."""
    open_mse, blind = fmean(c.open_mse for c in controls), fmean(c.blind_mse for c in controls)
    gain = fmean(c.noise_gain for c in controls)
    reach = CHANCE_REACH * math.hypot(*(c.noise_gain_error for c in controls)) / len(controls)
    succeeded, failed = open_mse < 0.01 * blind, abs(gain) <= reach
    return [
        Finding(
            f"Control that must succeed: at c = 0 the reconstruction returns the image, with an error of {open_mse:.2g} "
            f"against {blind:.2g} for a guess made blindly.",
            Weight.CONTROL if succeeded else Weight.FAILED_CONTROL,
        ),
        Finding(
            "Control that must fail: fed with noise the reconstruction comes nearer to its own image than to another by "
            f"{gain:.2g} in mean squared error; chance allows ± {reach:.2g}.",
            Weight.CONTROL if failed else Weight.FAILED_CONTROL,
        ),
    ]


def fidelity_findings(points: Sequence[CutPoint]) -> list[Finding]:
    """Every inner cut against both ends, and one plan against the other."""
    column = COLUMNS[Figure.FID]
    found = []
    for real in (Real.HELD_OUT, Real.TRAIN):
        named = [Named(point.name, point.proportional.known(real, Figure.FID)) for point in points]
        for end, words in ((named[-1], "all on the device, c = 1"), (named[0], "all on the server, c = 0")):
            found += against(
                column, named[1:-1], Named(words, end.figure), where=f"against the {real} of each client"
            )
    plans = [
        Pair(
            point.name,
            point.fixed.known(Real.HELD_OUT, Figure.FID),
            point.proportional.known(Real.HELD_OUT, Figure.FID),
        )
        for point in points
        if point.inner
    ]
    what = f"FID against held-out images, with {FIXED} against {PROPORTIONAL}"
    return found + pairwise(
        column,
        plans,
        {1: f"{what}, better at", -1: f"{what}, worse at", 0: f"{what}, not separated by the seeds at"},
    )


def disclosure_findings(points: Sequence[CutPoint], controls: Sequence[Controls]) -> list[Finding]:
    """What a reconstruction gains on a blind guess, and whether what the server makes is nearer than what it was sent."""
    blind = fmean(c.blind_mse for c in controls)
    rebuilt, kids = [], []
    for point in points:
        errors, sent, made = (
            point.released_spread("rebuilt_mse"),
            point.released_spread("kid"),
            point.generated_spread("kid"),
        )
        if point.inner and errors is not None and sent is not None and made is not None:
            rebuilt.append(Pair(point.name, errors, Spread(blind, 0.0, blind, blind, blind, errors.n)))
            kids.append(Pair(point.name, made, sent))
    error, made_by = (
        "The best linear reconstruction of a release has",
        "What the server makes itself up to the cut is",
    )
    return [
        *pairwise(
            ERROR,
            rebuilt,
            {
                -1: f"{error} a smaller mean squared error than a guess made blindly at",
                1: f"{error} a larger mean squared error than a guess made blindly at",
                0: f"{error} a mean squared error that is not separated from that of a guess made blindly at",
            },
        ),
        *pairwise(
            FURTHER,
            kids,
            {
                1: f"{made_by} further from the clean images by KID than the releases at",
                -1: f"{made_by} nearer to the clean images by KID than the releases at",
                0: f"{made_by} not told apart from the releases by its KID to the clean images at",
            },
        ),
    ]


def cost_findings(points: Sequence[CutPoint], costs: SideCosts) -> list[Finding]:
    """Follows from counting."""
    inner = [point for point in points if point.inner]
    divided = [100 * point.device_share(point.proportional_bills) for point in inner]
    fixed = 100 * inner[0].device_share(inner[0].fixed_bills)
    return [
        Finding(
            f"With {PROPORTIONAL} the device's share of an image's operations rises from {divided[0]:.0f} % at "
            f"{inner[0].name} to {divided[-1]:.0f} % at {inner[-1].name}; with {FIXED} it is {fixed:.0f} % at every inner "
            f"cut. A head has {costs.head.parameters:,} parameters, a backbone {costs.backbone.parameters:,}.",
            Weight.FACT,
        )
    ]
