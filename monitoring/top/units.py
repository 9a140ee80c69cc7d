"""Figures as a person reads them at a glance; `–` for what is not known."""

import math

UNKNOWN = "–"
_SIZES = ("B", "kB", "MB", "GB", "TB")


def seconds(value: float | None) -> str:
    """A duration: 8.1 ms, 4.2 s, 12 min, 3.5 h, 2.1 d; `never` for an infinite one."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "never"
    if value == 0:
        return "0 s"
    for limit, unit, size in ((1, "ms", 1e-3), (120, "s", 1), (7_200, "min", 60), (172_800, "h", 3_600)):
        if value < limit:
            return f"{_figures(value / size)} {unit}"
    return f"{_figures(value / 86_400)} d"


def number(value: float | None) -> str:
    """A count or a mean."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if value == int(value) or value >= 1_000 else _figures(value)


def size(value: float | None) -> str:
    """Bytes, by powers of a thousand."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit in _SIZES[:-1]:
        if value < 1_000:
            return f"{_figures(value)} {unit}"
        value /= 1_000
    return f"{_figures(value)} {_SIZES[-1]}"


def _figures(value: float) -> str:
    """Three of them, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
