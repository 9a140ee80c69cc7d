"""A number with its unit, in words that people read."""

_SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MINUTE_SECONDS, _HOUR_SECONDS, _DAY_SECONDS, _YEAR_SECONDS = 60.0, 3600.0, 86_400.0, 365 * 86_400.0
_SECONDS_OF = {"s": 1.0, "h": _HOUR_SECONDS}
_SLOW_PER_SECOND = 0.1
_LEAST_SHARE = 1e-4
_ROUND_PERCENT = 10  # from here on no decimals

SINGULAR = {
    "connections": "connection",
    "evaluations": "evaluation",
    "images": "image",
    "messages": "message",
    "nodes": "node",
    "parts": "part",
    "queues": "queue",
    "samples": "sample",
    "segments": "segment",
    "series": "series",
    "workers": "worker",
}
"""Of every noun that is counted."""


def in_words(value: float | None, unit: str) -> str:
    """A value of a plan, scaled for reading.

    unit: `bytes`, `s`, `h`, `of 1` for a share, a noun in the plural, or one of these a second (`messages/s`).
    """
    if value is None:
        return "unknown"
    if unit in _SECONDS_OF:
        return duration(value * _SECONDS_OF[unit])
    if unit == "of 1":
        return share(value)
    if unit.startswith("bytes"):
        return size(value) + unit.removeprefix("bytes")
    noun, _, per = unit.partition("/")
    if per == "s" and 0 < value < _SLOW_PER_SECOND:
        value, per = (
            (value * _HOUR_SECONDS, "h") if value * _HOUR_SECONDS >= 1 else (value * _DAY_SECONDS, "day")
        )
    return counted(value, noun) + (f"/{per}" if per else "")


def counted(value: float, nouns: str) -> str:
    """So many of something: `1 node`, `2,000 messages`. nouns: in the plural."""
    number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{number} {SINGULAR.get(nouns, nouns) if number == '1' else nouns}"


def share(value: float) -> str:
    """A part of 1 as a percentage."""
    if 0 < value < _LEAST_SHARE:
        return f"under {_LEAST_SHARE:.2%}".replace("%", " %")
    percent = 100 * value
    return f"{percent:,.0f} %" if percent >= _ROUND_PERCENT or percent == int(percent) else f"{percent:.2g} %"


def size(value: float) -> str:
    """Bytes, with a prefix of a thousand each."""
    for scale, prefix in _SCALES:
        if value >= scale:
            return (
                f"{value / scale:.3g} {prefix}B"
                if value < 999.5 * scale
                else f"{value / scale:,.0f} {prefix}B"
            )
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours, days or years, whichever says it in at most a few digits."""
    units = ((_YEAR_SECONDS, "years"), (_DAY_SECONDS, "days"), (_HOUR_SECONDS, "h"), (_MINUTE_SECONDS, "min"))
    for unit_seconds, unit in units:
        if seconds >= 2 * unit_seconds:
            number = seconds / unit_seconds
            return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return f"{seconds:.3g} s"
