"""The report of an evaluation: one HTML file that needs nothing outside itself, and the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from pydantic import TypeAdapter

from evaluation.errors import RunError
from evaluation.metrics.spread import Spread
from evaluation.reporting.charts import chart_svg
from evaluation.reporting.demo_report import count, fixed, with_spread
from evaluation.reporting.outcome import Better, Cell, Column, Outcome, Weight

ARROWS = {Better.LESS: "less is better", Better.MORE: "more is better", Better.NEITHER: ""}
WORDS = {
    Weight.CLAIM: "claim",
    Weight.UNDECIDED: "undecided",
    Weight.CONTROL: "control",
    Weight.FAILED_CONTROL: "control failed",
    Weight.FACT: "arithmetic",
}


def write(folder: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> tuple[Path, Path]:
    """Writes `report.html` and `summary.json`; returns both paths.

    facts: of the run, plain values: design, data, machine, versions, seconds, command.
    Raises RunError where the folder cannot be written to.
    """
    report, summary = folder / "report.html", folder / "summary.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report.write_text(render(outcomes, facts), encoding="utf-8")
        summary.write_text(to_json(outcomes, facts), encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"cannot write the report to {folder}: {error.strerror}; choose another --out"
        ) from error
    return report, summary


def to_json(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> str:
    """Facts and outcomes, without the pictures, as indented JSON."""
    plain = TypeAdapter(tuple[Outcome, ...]).dump_python(tuple(outcomes), mode="json")
    for outcome in plain:
        del outcome["pictures"]
    return json.dumps({**facts, "experiments": plain}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def render(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> str:
    """The report as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": shown, "count": count, "fixed": fixed, "weight": WORDS.__getitem__}
    return environment.get_template("evaluation.html.j2").render(
        outcomes=outcomes,
        facts=facts,
        arrows=ARROWS,
        charts={o.suite: [chart_svg(chart) for chart in o.charts] for o in outcomes},
        failed=[(o, f) for o in outcomes for f in o.findings if f.weight is Weight.FAILED_CONTROL],
        claims=[(o, f) for o in outcomes for f in o.findings if f.weight is Weight.CLAIM],
        undecided=sum(f.weight is Weight.UNDECIDED for o in outcomes for f in o.findings),
    )


def shown(cell: Cell, column: Column) -> str | Markup:
    """A cell as its column wants it: figures with spread, plain numbers, words, a dash where there is nothing."""
    match cell:
        case Spread():
            return with_spread(cell, column.decimals, column.scale)
        case float():
            return fixed(cell, column.decimals, column.scale)
        case int():
            return count(cell) if column.scale == 1 else fixed(float(cell), column.decimals, column.scale)
        case None:
            return "–"
    return cell
