"""A figure and how far it scatters. Nothing in this room reports one without the other."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evaluation.errors import MeasurementsError


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Spread:
    """n repetitions of one measurement.

    `standard_deviation` is that of the single values (n − 1 in the denominator), not of their mean; `low`
    and `high` enclose the middle 95 % of the values. All in the unit of the measurement.
    """

    mean: float
    standard_deviation: float
    median: float
    low: float
    high: float
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Describes repeated measurements.

    Raises:
        MeasurementsError: fewer than two values, or one that is not finite.
    """
    array = np.fromiter((float(value) for value in values), dtype=np.float64)
    if len(array) < 2:
        raise MeasurementsError(
            f"{len(array)} value(s) have no spread: repeat the measurement at least twice"
        )
    if not np.isfinite(array).all():
        raise MeasurementsError(
            f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite numbers"
        )
    low, median, high = np.quantile(array, (0.025, 0.5, 0.975))
    return Spread(
        mean=float(array.mean()),
        standard_deviation=float(array.std(ddof=1)),
        median=float(median),
        low=float(low),
        high=float(high),
        n=len(array),
    )


def spread_or_none(values: Iterable[float]) -> Spread | None:
    """As `spread`, and None where there are fewer than two values: for quantities that a run may lack."""
    array = [float(value) for value in values]
    return spread(array) if len(array) >= 2 else None


def spread_of_histogram(
    upper_bounds: Sequence[float], cumulative_counts: Sequence[float], total: float
) -> Spread | None:
    """Describes what a Prometheus histogram has seen; None below two observations.

    The mean is exact. The quantiles assume that observations lie evenly within a bucket (as Prometheus' own
    `histogram_quantile` does), and the deviation that they lie at its middle, so both are as coarse as the
    buckets.

    Args:
        upper_bounds: `le` of every bucket, ascending, the last may be infinite; the first bucket begins at 0.
        cumulative_counts: observations up to each bound.
        total: the sum of all observations (`_sum`).
    """
    n = round(cumulative_counts[-1])
    if n < 2:
        return None
    finite = [bound for bound in upper_bounds if math.isfinite(bound)]
    edges = np.asarray([0.0, *finite] + [finite[-1]] * (len(upper_bounds) - len(finite)))
    counts = np.diff(np.asarray([0.0, *cumulative_counts]))
    mean = total / n
    middles = (edges[1:] + edges[:-1]) / 2
    variance = float((counts * (middles - mean) ** 2).sum()) / (n - 1)
    positions = np.asarray([0.0, *cumulative_counts])
    low, median, high = np.interp(np.asarray((0.025, 0.5, 0.975)) * n, positions, edges)
    return Spread(
        mean=mean,
        standard_deviation=math.sqrt(variance),
        median=float(median),
        low=float(low),
        high=float(high),
        n=n,
    )
