"""`python -m benchmarks.evaluation_pages [SUMMARY]`: puts the figures of a kept evaluation into docs/evaluation.md.

SUMMARY: the `summary.json` of a run, which is then the one that is kept. The page marks where a table or the findings of an
experiment belong: `<!-- table sweep: TITLE -->` or `<!-- findings sweep -->`, up to `<!-- end -->`.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_report import fixed
from evaluation.reporting.outcome import Cell, Column, Outcome, Table

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
KEPT = PAGE.parent / "evaluation" / "summary.json"
_MARKED = re.compile(r"(<!-- (table|findings) (\w+)(?:: ([^\n]+?))? -->\n).*?(<!-- end -->)", re.DOTALL)


def outcomes_of(summary: dict[str, Any]) -> dict[str, Outcome]:
    """The experiments of a summary by name."""
    read = TypeAdapter(tuple[Outcome, ...]).validate_python(summary["experiments"])
    return {outcome.suite: outcome for outcome in read}


def filled(page: str, outcomes: dict[str, Outcome]) -> str:
    """The page with every mark filled; ValueError names a mark for which there is nothing."""

    def block(match: re.Match[str]) -> str:
        start, kind, suite, title, end = match.groups()
        if suite not in outcomes:
            raise ValueError(f"the page wants {suite!r}, which the kept evaluation lacks")
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


def main(summary: Path | None) -> None:
    """Keep a summary, if one is given, and write its figures into the page."""
    if summary is not None:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(summary.read_text(encoding="utf-8"), encoding="utf-8")
    outcomes = outcomes_of(json.loads(KEPT.read_text(encoding="utf-8")))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
