"""A plan for people: its figures, then what they rest on."""

from itertools import groupby

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collafuse.plan.item import Item, Plan
from collafuse.plan.quantity import in_words

WIDE_COLUMNS = 120
"""So wide a terminal has room for every source beside its figure; on others it stands below it."""

_HOW_COLUMNS = 10


def show(plan: Plan, console: Console) -> None:
    """Print a plan, in no more columns than the console has."""
    in_rows = _wide if console.width >= WIDE_COLUMNS else _narrow
    values = [in_words(item.value, item.unit) for item in plan.items]
    widest = max(map(len, values), default=0)
    for section, items in groupby(plan.items, key=lambda item: item.section):
        console.print(Text(section, "bold"))
        console.print(in_rows(list(items), widest))
    console.print(Text("\nassumed", "bold"))
    for assumption in plan.assumptions:
        console.print(_beside(Text(assumption.how, "cyan"), assumption.text, _HOW_COLUMNS, indent=2))
    for warning in plan.warnings:
        console.print()
        console.print(_beside(Text("warning", "yellow"), warning, len("warning")))


def _wide(items: list[Item], value_columns: int) -> RenderableType:
    longest = max(len(item.name) for item in items)
    grid = _grid(max(34, longest), value_columns)
    grid.add_column(ratio=1, overflow="fold")
    for item in items:
        grid.add_row(*_figure(item), Text(item.source, "dim"))
    return Padding(grid, (0, 0, 0, 2))


def _narrow(items: list[Item], value_columns: int) -> RenderableType:
    """Every figure in a line, and where it comes from in the next."""
    both = Table.grid(expand=True)
    for item in items:
        grid = _grid(None, value_columns)
        grid.add_row(*_figure(item))
        both.add_row(Padding(grid, (0, 0, 0, 2)))
        both.add_row(Padding(Text(item.source, "dim", overflow="fold"), (0, 0, 0, 6)))
    return both


def _grid(name_columns: int | None, value_columns: int) -> Table:
    """Columns for a name, which takes what is left unless it is told how much, a value, and how it was come by."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(width=name_columns, ratio=None if name_columns else 1)
    grid.add_column(justify="right", width=value_columns, no_wrap=True)
    grid.add_column(style="cyan", width=_HOW_COLUMNS, no_wrap=True)
    return grid


def _figure(item: Item) -> tuple[Text, Text, str]:
    return Text(item.name), Text(in_words(item.value, item.unit)), item.how


def _beside(word: Text, text: str, word_columns: int, indent: int = 0) -> RenderableType:
    """A word, and beside it a text that stays in its own column when it takes several lines."""
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=word_columns, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(word, Text(text))
    return Padding(grid, (0, 0, 0, indent))
