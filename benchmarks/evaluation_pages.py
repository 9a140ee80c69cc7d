"""`python -m benchmarks.evaluation_pages [DATA=SUMMARY …]`: puts the figures of kept evaluations into docs/evaluation.md.

SUMMARY: the `summary.json` of a run, which is then the one that is kept of DATA. The page marks where a table or the findings
of an experiment belong: `<!-- table digits/sweep: TITLE -->` or `<!-- findings digits/sweep -->`, up to `<!-- end -->`.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_report import fixed
from evaluation.reporting.outcome import Cell, Column, Outcome, Table

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
KEPT = PAGE.parent / "evaluation"
_MARKED = re.compile(r"(<!-- (table|findings) (\w+/\w+)(?:: ([^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL)


def kept_outcomes() -> dict[str, Outcome]:
    """All experiments that are kept, by data and name: `digits/sweep`."""
    return {
        f"{summary.stem}/{outcome.suite}": outcome
        for summary in sorted(KEPT.glob("*.json"))
        for outcome in _outcomes_of(json.loads(summary.read_text(encoding="utf-8")))
    }


def _outcomes_of(summary: dict[str, Any]) -> tuple[Outcome, ...]:
    return TypeAdapter(tuple[Outcome, ...]).validate_python(summary["experiments"])


def filled(page: str, outcomes: Mapping[str, Outcome]) -> str:
    """The page with every mark filled; ValueError names a mark for which there is nothing."""

    def block(match: re.Match[str]) -> str:
        start, kind, suite, title, end = match.groups()
        if suite not in outcomes:
            raise ValueError(f"the page wants {suite!r}, which no kept evaluation has")
        if kind == "findings":
            return start + findings_markdown(outcomes[suite]) + end
        tables = [table for table in outcomes[suite].tables if table.title == title]
        if not tables:
            known = "; ".join(table.title for table in outcomes[suite].tables)
            raise ValueError(f"{suite!r} has no table {title!r}: it has {known}")
        return start + table_markdown(tables[0]) + end

    return _MARKED.sub(block, page)


def findings_markdown(outcome: Outcome) -> str:
    """A list of the findings, each with its weight."""
    return "".join(f"- *{finding.weight.value}* {finding.text}\n" for finding in outcome.findings)


def table_markdown(table: Table) -> str:
    """A table, its figures as mean ± standard deviation, and its note."""
    heads = [f"{column.name}, {column.unit}" if column.unit else column.name for column in table.columns]
    lines = [heads, ["---"] * len(heads)]
    lines += [
        [_shown(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows
    ]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return text + (f"\n{table.note}\n" if table.note else "")


def _shown(cell: Cell, column: Column) -> str:
    match cell:
        case Spread():
            mean, deviation = (
                fixed(value, column.decimals, column.scale) for value in (cell.mean, cell.standard_deviation)
            )
            return f"{mean} ± {deviation}"
        case float():
            return fixed(cell, column.decimals, column.scale)
        case None:
            return "–"
    return str(cell)


def main(given: list[str]) -> None:
    """Keep the summaries that are given, and write all figures into the page."""
    KEPT.mkdir(exist_ok=True)
    for name, _, summary in (argument.partition("=") for argument in given):
        if not Path(summary).is_file():
            sys.exit(
                f"error: {name}={summary} names no summary: give DATA=PATH, such as digits=evaluation_out/summary.json"
            )
        (KEPT / f"{name}.json").write_text(Path(summary).read_text(encoding="utf-8"), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), kept_outcomes()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
