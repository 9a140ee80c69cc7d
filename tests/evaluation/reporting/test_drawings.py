import re

import numpy as np
import pytest

from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_results import Curve
from evaluation.reporting.gallery import CutLine, chain_svg
from evaluation.reporting.plots import Interval, interval_chart, line_chart
from tests.evaluation.trial import SCHEDULE

IMAGE = np.zeros((1, 8, 8), dtype=np.float32)
SURE = Spread(1.0, 0.0, 1.0, 1.0, 1.0, 10)


def chain(*cuts: CutLine) -> str:
    return chain_svg(IMAGE, SCHEDULE.alpha_bar, cuts, width=960, frames=11)


def cut_positions(svg: str) -> list[float]:
    return [float(x) for x in re.findall(r'class="cut" x1="([\d.]+)"', svg)]


def test_a_cut_stands_where_its_step_lies_on_the_chain() -> None:
    svg = chain(CutLine("a", 100, 0, 4), CutLine("b", 25, 16, 4), CutLine("c", 0, 16, 0))
    all_local, quarter, all_remote = cut_positions(svg)
    assert quarter == pytest.approx(all_local + 0.75 * (all_remote - all_local), abs=0.2)
    assert svg.count('class="server"') == svg.count('class="device"') == 2
    assert "server: 16 evaluations" in svg
    assert "device: 4 evaluations" in svg


def test_a_name_cannot_break_a_drawing() -> None:
    curve = Curve("<b>", (1, 2), (0.5, 0.4))
    mark = Interval("<b>", "<i>", "isolated", SURE, SURE)
    for svg in (
        chain(CutLine("<b>", 30, 16, 4)),
        line_chart([curve], ["s1"]),
        interval_chart([mark], "share"),
    ):
        assert "<b>" not in svg
        assert "&lt;b&gt;" in svg


def test_a_loss_falls_down_the_page_and_names_keep_apart() -> None:
    curves = [Curve(name, (1, 2, 3), (0.9, 0.3, end)) for name, end in (("a", 0.100), ("b", 0.101))]
    svg = line_chart(curves, ["s1", "s2"])
    points = re.findall(r'points="([^"]+)"', svg)[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)
    ends = [float(y) for y in re.findall(r'class="end s\d" x="[\d.]+" y="([\d.]+)"', svg)]
    assert abs(ends[0] - ends[1]) >= 13.0


def test_figures_without_any_scatter_can_still_be_drawn() -> None:
    svg = interval_chart([Interval("north", "isolated", "isolated", SURE, SURE)], "share", scale=100.0)
    assert "nan" not in svg
    assert svg.count("<circle") == 1


def test_losses_that_a_logarithm_cannot_show_are_left_out() -> None:
    svg = line_chart([Curve("a", (1, 2, 3), (0.5, 0.0, 0.25))], ["s1"])
    assert len(re.findall(r'points="([^"]+)"', svg)[0].split()) == 2


@pytest.mark.parametrize(("highest", "lowest"), [(0.9, 0.3), (1.0, 0.02), (1.0, 1e-6)])
def test_a_loss_axis_has_several_marks_whatever_its_range(highest: float, lowest: float) -> None:
    svg = line_chart([Curve("a", (1, 2, 3), (highest, (highest + lowest) / 2, lowest))], ["s1"])
    assert 3 <= svg.count('text-anchor="end"') <= 7
