"""Charts of an outcome as inline SVG, drawn by matplotlib in the colours of the page's style sheet."""

import hashlib
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from evaluation.reporting.outcome import Chart, Series

WIDTH_INCHES, HEIGHT_INCHES = 5.6, 3.3
MOST_INSIDE = 5
"""Entries of a legend that a drawing has room for."""
COLOURS = tuple(f"#00000{index}" for index in range(1, 7))
"""Stand-ins, one for each colour --s1 … --s6 of the style sheet, which knows about light and dark pages."""
INK, SOFT, GRID, FLOOR = "#0000a1", "#0000a2", "#0000a3", "#0000a4"
_VARIABLES = {
    **{colour: f"var(--s{index})" for index, colour in enumerate(COLOURS, start=1)},
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--grid)",
    FLOOR: "var(--floor)",
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_HATCHES = (None, "////", "....")
"""Of bands in one colour, so that the legend tells them apart."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # the page's own type
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def chart_svg(chart: Chart) -> str:
    """One chart as an `<svg>` element: every line with its interval as a shade, levels to read against as bands."""
    salt = hashlib.sha256(repr(chart).encode()).hexdigest()[:12]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, chart)
        _explain(figure, axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), salt, chart.title)


def _draw(axes: Axes, chart: Chart) -> None:
    axes.grid(visible=True, axis="y")
    axes.set_axisbelow(True)
    for index, band in enumerate(chart.bands):
        hatch = _HATCHES[index % len(_HATCHES)]
        axes.axhspan(
            band.low, band.high, facecolor=FLOOR, edgecolor=SOFT, linewidth=0, hatch=hatch, label=band.name
        )
        axes.axhline((band.low + band.high) / 2, color=SOFT, linewidth=0.6, linestyle=":")
    for index, series in enumerate(chart.series):
        _line(axes, series, COLOURS[index % len(COLOURS)], _MARKERS[index // len(COLOURS) % len(_MARKERS)])
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        values = [value for series in chart.series for value in (*series.mean, *(series.low or ()))]
        if min(values, default=1.0) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        else:  # distances near zero may be estimated below it: those are drawn on the straight part around zero
            smallest = min((abs(value) for value in values if value), default=1.0)
            axes.set_yscale("symlog", linthresh=max(smallest, 1e-6))


def _explain(figure: Figure, axes: Axes) -> None:
    """A legend where there are several lines; above the drawing where it would hide much of it."""
    entries = len(axes.get_legend_handles_labels()[1])
    if entries > MOST_INSIDE:
        figure.legend(loc="outside upper center", ncols=2)
    elif entries > 1:
        axes.legend()


def _line(axes: Axes, series: Series, colour: str, marker: str) -> None:
    axes.plot(
        series.x, series.mean, color=colour, marker=marker, markersize=4, linewidth=1.4, label=series.name
    )
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)


def _inline(text: str, salt: str, title: str) -> str:
    """Without the XML head, with names of its own for what it refers to, and the page's colours."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{salt}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{salt}-", svg)
    svg = re.sub(r"(font-family: )[^;\"]+", r"\1var(--sans)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    label = title.replace("&", "and").replace('"', "'").replace("<", "")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{label}" class="drawn" ', svg, count=1).strip()
