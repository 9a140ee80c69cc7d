"""How a benchmark tells its figures: a table for people, one JSON object for machines, a file to keep."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).parents[1] / "README.md"
PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"
TABLE_START, TABLE_END = "<!-- python -m benchmarks.report makes this table -->", "<!-- end -->"


@dataclass(frozen=True)
class Result:
    """One figure of ours against that of a rival, measured in the same run.

    unit: of `ours` and `rival_value`.
    ratio: ours against the rival's, such that more is better; None without a rival.
    bar: what the ratio has to reach, None when nothing was promised.
    spread: least and greatest value of ours over the rounds, in words.
    """

    name: str
    unit: str
    ours: float
    rival: str | None
    rival_value: float | None
    ratio: float | None
    bar: float | None
    spread: str

    @property
    def missed(self) -> bool:
        """Whether a bar was set and not reached."""
        return self.bar is not None and (self.ratio is None or self.ratio < self.bar)


def rate(
    name: str, unit: str, ours: Sequence[float], rival: str, theirs: Sequence[float], bar: float | None
) -> Result:
    """A rate, of which more is better: medians over the rounds, and their ratio."""
    own, other = statistics.median(ours), statistics.median(theirs)
    return Result(name, unit, own, rival, other, own / other, bar, spread(ours))


def alone(name: str, unit: str, values: Sequence[float], how: str | None = None) -> Result:
    """A figure without a rival, of which nothing was promised: the median over the rounds.

    how: it was measured, in place of the spread where there was one round.
    """
    own = statistics.median(values)
    return Result(name, unit, own, None, None, None, None, spread(values) if how is None else how)


def spread(values: Sequence[float]) -> str:
    """The least and the greatest of some values, in words."""
    return f"{_short(min(values))} to {_short(max(values))}, {len(values)} rounds"


def machine() -> dict[str, str | int]:
    """What this was measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gb": round(memory_bytes / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit(benchmark: str, results: Sequence[Result], *, as_json: bool, quick: bool, **facts: str) -> None:
    """Print the results, and keep those of a full run under benchmarks/results/.

    facts: what else belongs to the machine, such as versions.
    """
    found = {
        "benchmark": benchmark,
        "machine": machine() | facts,
        "results": [asdict(result) for result in results],
    }
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{benchmark}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(found))
        return
    Console().print(_table(benchmark, results))
    print(", ".join(f"{name} {value}" for name, value in (machine() | facts).items()))


def _table(benchmark: str, results: Sequence[Result]) -> Table:
    table = Table("what", "ours", "spread", "rival", "rival's", "ratio", "bar", title=benchmark)
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:.2f}×"
        bar = "" if result.bar is None else f"≥ {result.bar:g}×{' MISSED' if result.missed else ''}"
        rivals = "" if result.rival_value is None else f"{_short(result.rival_value)} {result.unit}"
        table.add_row(
            result.name,
            f"{_short(result.ours)} {result.unit}",
            result.spread,
            result.rival or "",
            rivals,
            ratio,
            bar,
        )
    return table


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(*benchmarks: str, promised: bool = False) -> str:
    """The kept results of some benchmarks as a table: all comparisons, or only those that something was promised of."""
    lines = ["| benchmark | what | ours | against | ratio | promised |", "|---|---|---|---|---|---|"]
    for name in benchmarks:
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for result in found["results"]:
            if result["ratio"] is None or (promised and result["bar"] is None):
                continue
            bar = "" if result["bar"] is None else f"≥ {result['bar']:g}×"
            missed = " **missed**" if result["bar"] is not None and result["ratio"] < result["bar"] else ""
            ours, theirs = f"{_short(result['ours'])} {result['unit']}", f"{_short(result['rival_value'])}"
            cells = (
                f"`{name}`",
                result["name"],
                ours,
                f"{result['rival']}: {theirs}",
                f"{result['ratio']:.2f}×",
                bar + missed,
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """The pages that hold a table of the kept results, with that table: what was promised in the README, all of it in docs."""
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    return {README: markdown(*names, promised=True), PERFORMANCE: markdown(*names)}


def main() -> None:
    """Put the tables into their pages."""
    for path, table in pages().items():
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(TABLE_START)
        _, _, after = rest.partition(TABLE_END)
        path.write_text(f"{before}{TABLE_START}\n{table}\n{TABLE_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
