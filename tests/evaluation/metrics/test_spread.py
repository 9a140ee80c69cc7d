import math

import numpy as np
import pytest

from evaluation.errors import MeasurementsError
from evaluation.metrics.spread import spread, spread_of_histogram, spread_or_none


def test_a_spread_describes_its_values() -> None:
    figure = spread([1.0, 2.0, 3.0, 6.0])
    assert (figure.mean, figure.median, figure.n) == (3.0, 2.5, 4)
    assert figure.standard_deviation == pytest.approx(math.sqrt(14 / 3))
    assert 1.0 <= figure.low < figure.high <= 6.0


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_no_figure_without_a_spread(values: list[float]) -> None:
    with pytest.raises(MeasurementsError):
        spread(values)


def test_a_quantity_that_was_not_measured_is_none() -> None:
    assert spread_or_none([0.5]) is None
    assert spread_or_none([0.5, 0.7]) == spread([0.5, 0.7])


def test_a_histogram_tells_about_what_its_values_told() -> None:
    values = np.random.default_rng(0).gamma(4.0, 0.01, 5000)
    bounds = [*np.linspace(0.002, 0.2, 100).tolist(), math.inf]
    counts = [float((values <= bound).sum()) for bound in bounds]
    described, exact = spread_of_histogram(bounds, counts, float(values.sum())), spread(values)
    assert described is not None
    assert described.n == exact.n
    assert described.mean == pytest.approx(exact.mean)
    assert described.median == pytest.approx(exact.median, abs=0.001)
    assert described.low == pytest.approx(exact.low, abs=0.001)
    assert described.high == pytest.approx(exact.high, abs=0.001)
    assert described.standard_deviation == pytest.approx(exact.standard_deviation, rel=0.05)
    assert spread_of_histogram(bounds, [0.0] * len(bounds), 0.0) is None
