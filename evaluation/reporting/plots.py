"""Small drawings of curves and intervals as inline SVG. Colours come from the page's style sheet, so both themes work."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_results import Curve

WIDTH, HEIGHT = 312, 220
LEFT, RIGHT, TOP, BOTTOM = 34, 66, 12, 42
POINTS = 120


@dataclass(frozen=True)
class Interval:
    """One mark of an interval chart: a figure with spread, beside the floor that it can be read against."""

    group: str
    name: str
    style: str
    figure: Spread
    floor: Spread


def line_chart(curves: Sequence[Curve], styles: Sequence[str]) -> str:
    """Losses over steps with a logarithmic loss axis, each curve named at its end.

    Long curves are averaged in blocks to about 120 points. Values of zero or less cannot be drawn and are
    left out.
    """
    drawn = [(curve.name, style, _averaged(curve)) for curve, style in zip(curves, styles, strict=True)]
    drawn = [(name, style, points) for name, style, points in drawn if len(points)]
    if not drawn:
        return '<p class="note">No losses were recorded.</p>'
    everything = np.concatenate([points for _, _, points in drawn])
    x_most = float(everything[:, 0].max()) or 1.0
    low, high = math.log10(everything[:, 1].min()), math.log10(everything[:, 1].max())
    margin = 0.06 * max(high - low, 0.3)
    low, high = low - margin, high + margin

    def place_x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / x_most

    def place_y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(loss)) / (high - low)

    parts = [_grid_y(tick, place_y(tick)) for tick in _log_ticks(low, high)]
    parts += [_tick_x(tick, place_x(tick), HEIGHT - BOTTOM) for tick in _linear_ticks(0.0, x_most, 4)]
    ends = _apart([place_y(float(points[-1, 1])) for _, _, points in drawn], 13.0)
    for (name, style, points), end in zip(drawn, ends, strict=True):
        path = " ".join(f"{place_x(step):.1f},{place_y(loss):.1f}" for step, loss in points)
        parts.append(f'<polyline class="curve {style}" points="{path}"/>')
        x_end = place_x(float(points[-1, 0])) + 6
        parts.append(f'<text class="end {style}" x="{x_end:.1f}" y="{end + 4:.1f}">{escape(name)}</text>')
    parts.append(_caption_x("training step", HEIGHT))
    return _svg("".join(parts), HEIGHT, "Loss over training steps")


def interval_chart(intervals: Sequence[Interval], axis: str, scale: float = 1.0) -> str:
    """One line per figure, grouped by client: a dot at the mean, a bar over the middle 95 %, the floor's band behind."""
    figures = [part for mark in intervals for part in (mark.figure, mark.floor)]
    low, high = scale * min(part.low for part in figures), scale * max(part.high for part in figures)
    low, high = low - 0.04 * (high - low or 1.0), high + 0.04 * (high - low or 1.0)
    left, right = 6, 10

    def place(value: float) -> float:
        return left + (WIDTH - left - right) * (scale * value - low) / (high - low)

    parts, y, group = [], 2.0, ""
    body: list[str] = []
    for mark in intervals:
        if mark.group != group:
            y, group = y + 22.0, mark.group
            body.append(f'<text class="name" x="{left}" y="{y - 5:.0f}">{escape(group)}</text>')
        body.append(_interval(mark, place, y))
        y += 20.0
    height = int(y) + 40
    for tick in _linear_ticks(low, high, 5):
        parts.append(
            f'<line class="grid" x1="{place(tick / scale):.1f}" x2="{place(tick / scale):.1f}" y1="6" y2="{y:.0f}"/>'
        )
        parts.append(_tick_x(tick, place(tick / scale), int(y)))
    return _svg("".join(parts + body) + _caption_x(axis, height), height, axis)


def _interval(mark: Interval, place: Callable[[float], float], y: float) -> str:
    middle = y + 9
    band = place(mark.floor.low), place(mark.floor.high)
    return (
        f'<rect class="floor" x="{band[0]:.1f}" y="{y:.0f}" width="{band[1] - band[0]:.1f}" height="20"/>'
        f'<line class="reach {mark.style}" x1="{place(mark.figure.low):.1f}" x2="{place(mark.figure.high):.1f}" '
        f'y1="{middle:.0f}" y2="{middle:.0f}"/>'
        f'<circle class="dot {mark.style}" cx="{place(mark.figure.mean):.1f}" cy="{middle:.0f}" r="4">'
        f"<title>{escape(mark.group)}, {escape(mark.name)}</title></circle>"
    )


def _averaged(curve: Curve) -> NDArray[np.float64]:
    """(n, 2) float64 of step and loss, n about 120 at most, each the mean over a block of drawable values."""
    points = np.asarray(
        [(step, loss) for step, loss in zip(curve.steps, curve.loss, strict=True) if loss > 0]
    )
    if len(points) <= POINTS:
        return points.reshape(-1, 2).astype(np.float64)
    return np.asarray([block.mean(axis=0) for block in np.array_split(points, POINTS)])


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values whose logarithm lies within: as dense a series as gives some three to seven of them."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks: list[float] = []
    for series in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        candidates = [m * 10.0**k for k in decades for m in series]
        denser = [tick for tick in candidates if low <= math.log10(tick) <= high]
        if len(ticks) >= 3 or len(denser) > 7:
            break
        ticks = denser
    return ticks


def _linear_ticks(low: float, high: float, about: int) -> Iterator[float]:
    """Round values within, some `about` of them."""
    raw = (high - low) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw)
    yield from (step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1))


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """The places moved apart, in order, until neighbours keep their distance; their centre stays."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + distance)
    shift = (sum(moved) - sum(places)) / len(places)
    result = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        result[i] = place - shift
    return result


def _grid_y(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _tick_x(value: float, x: float, y: float) -> str:
    text = f"{0.0 if abs(value) < 1e-12 else round(value, 10):,.6g}".replace(",", "\u2009").replace(
        "-", "\u2212"
    )
    return f'<text class="tick" x="{x:.1f}" y="{y + 16:.0f}" text-anchor="middle">{text}</text>'


def _caption_x(text: str, height: int) -> str:
    return f'<text class="axis" x="{LEFT}" y="{height - 4}">{escape(text)}</text>'


def _svg(body: str, height: int, label: str) -> str:
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
