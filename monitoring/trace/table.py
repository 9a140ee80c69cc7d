"""A timeline for people and for programs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitoring.trace.log_line import LogLine
from monitoring.trace.timeline import Timeline

_SHORT = 8


def show(timeline: Timeline, console: Console) -> None:
    """Print every event with its place in time, then the stretches, then what has to be known to believe them."""
    console.print(_events(timeline))
    if timeline.stretches:
        console.print()
        console.print(_stretches(timeline))
    for note in timeline.notes:
        console.print(Text(_printable(f"note: {note}"), "yellow"))


def as_object(timeline: Timeline) -> dict[str, Any]:
    """The same as one JSON object; times in unix seconds."""
    first = timeline.lines[0].at
    return {
        "job_id": timeline.job_id,
        "requests": list(timeline.requests),
        "from_stock": sorted(timeline.stock),
        "events": [
            {
                "time": _iso(line.at),
                "offset_seconds": round(line.at - first, 6),
                "process": line.process,
                "where": line.where,
                "event": line.event,
                "request_id": line.request_id,
                "details": line.details,
            }
            for line in timeline.lines
        ],
        "stretches": [
            {
                "name": stretch.name,
                "request_id": stretch.request_id,
                "from_stock": stretch.stock,
                "process": stretch.process,
                "begin": stretch.begin,
                "end": stretch.end,
                "seconds": round(stretch.seconds, 6),
            }
            for stretch in timeline.stretches
        ],
        "notes": list(timeline.notes),
    }


def _events(timeline: Timeline) -> Table:
    title = (
        f"request {timeline.requests[0]}, for the stock"
        if timeline.job_id is None
        else f"job {timeline.job_id}"
    )
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for heading in ("UTC", "after", "process", "where", "event", "what"):
        table.add_column(
            heading, justify="right" if heading == "after" else "left", no_wrap=heading != "what"
        )
    first = timeline.lines[0].at
    for line in timeline.lines:
        told = (
            _iso(line.at)[11:23],
            f"{line.at - first:.3f} s",
            line.process,
            line.where,
            line.event,
            _what(line, timeline),
        )
        table.add_row(*(Text(_printable(each)) for each in told))
    return table


def _stretches(timeline: Timeline) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stretch", "seconds", "of"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for stretch in timeline.stretches:
        whose = "the job" if stretch.request_id is None else f"request {stretch.request_id[:_SHORT]}"
        table.add_row(
            Text(stretch.name),
            Text(f"{stretch.seconds:.3f}", "red" if stretch.seconds < 0 else "default"),
            Text(f"{whose}, for the stock" if stretch.stock else whose),
        )
    return table


def _what(line: LogLine, timeline: Timeline) -> str:
    """The fields of a line, and of which request it is where there are several."""
    which = {"request": line.request_id[:_SHORT]} if line.request_id and len(timeline.requests) > 1 else {}
    brought = {"requests": len(line.brought_by)} if line.brought_by else {}
    return " ".join(
        f"{name}={_short(value)}"
        for name, value in {**which, **brought, **line.details}.items()
        if value is not None
    )


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping | list):
        return f"<{len(value)}>"
    return str(value)


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor: a log may hold words from the network."""
    return "".join(character if character.isprintable() else "·" for character in text)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
