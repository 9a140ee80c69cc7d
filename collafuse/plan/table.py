"""A plan for people: a table of its figures, then what they rest on."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collafuse.plan.item import Item, Plan

_SCALES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MINUTE_SECONDS, _HOUR_SECONDS, _DAY_SECONDS = 60.0, 3600.0, 86_400.0


def show(plan: Plan, console: Console) -> None:
    """Print a plan."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("how", style="cyan")
    table.add_column("from", style="dim")
    section = ""
    for item in plan.items:
        if item.section != section:
            section = item.section
            table.add_row(Text(section, "bold"))
        table.add_row(Text(f"  {item.name}"), Text(in_words(item)), item.how, Text(item.source))
    console.print(table)
    console.print(Text("\nassumed", "bold"))
    for assumption in plan.assumptions:
        console.print(Text(f"  {assumption.how:<10}", "cyan"), Text(assumption.text))
    for warning in plan.warnings:
        console.print(Text("\nwarning ", "yellow"), Text(warning), sep="")


def in_words(item: Item) -> str:
    """A value with its unit, scaled for reading."""
    if item.value is None:
        return "unknown"
    if item.unit == "s":
        return _duration(item.value)
    if item.unit.startswith("bytes"):
        return _scaled(item.value) + "B" + item.unit.removeprefix("bytes")
    number = (
        f"{item.value:,.0f}" if item.value >= 100 or item.value == int(item.value) else f"{item.value:.3g}"
    )
    return f"{number} {item.unit}"


def _scaled(value: float) -> str:
    for size, prefix in _SCALES:
        if value >= size:
            return f"{value / size:.3g} {prefix}" if value < 999.5 * size else f"{value / size:,.0f} {prefix}"
    return f"{value:.0f} "


def _duration(seconds: float) -> str:
    for size, unit in ((_DAY_SECONDS, "days"), (_HOUR_SECONDS, "h"), (_MINUTE_SECONDS, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
