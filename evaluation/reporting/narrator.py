"""What a person sees while the demo runs: live bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

PLAIN_SECONDS = 15.0
"""Where there is no terminal, one line of progress at most so often."""


class Narrator:
    """Tells how far the parts of the run are. Parts may overlap."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live = console.is_terminal
        self._started = time.monotonic()
        self._told: dict[TaskID, float] = {}
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )

    def part(self, name: str, total: float | None = None) -> "Part":
        """Begin a part; total: units of work, None when they cannot be counted."""
        self._say(f"{name} …")
        part = Part(self, name, self._progress.add_task(name, total=total, note=""), total)
        self._told[part.task] = time.monotonic()
        return part

    def tell(self, part: "Part", done: float, note: str) -> None:
        """Show progress within a part."""
        self._progress.update(part.task, completed=done, note=note)
        if time.monotonic() - self._told[part.task] >= PLAIN_SECONDS:
            self._told[part.task] = time.monotonic()
            self._say(f"{part.name}: {done:.0f}{f' of {part.total:.0f}' if part.total else ''} {note}")

    def end(self, part: "Part", note: str) -> None:
        """Show that a part is finished."""
        self._progress.update(part.task, total=1, completed=1, note=note)
        self._say(f"{part.name}: done{f', {note}' if note else ''}")

    def _say(self, line: str) -> None:
        if not self._live:
            moment = f"[{time.monotonic() - self._started:4.0f} s]"
            self.console.print(f"{moment} {line}", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Part:
    """One part of the run."""

    def __init__(self, narrator: Narrator, name: str, task: TaskID, total: float | None) -> None:
        self.name = name
        self.task = task
        self.total = total
        self._narrator = narrator

    def update(self, done: float, note: str = "") -> None:
        """Done so far, in the units of the part's total."""
        self._narrator.tell(self, done, note)

    def end(self, note: str = "") -> None:
        """It is finished."""
        self._narrator.end(self, note)
