"""The report of an evaluation, from an outcome made up here: what is drawn, what is said, and what a reader is warned of."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.errors import RunError, SummaryError
from evaluation.metrics.spread import spread
from evaluation.reporting.charts import chart_svg
from evaluation.reporting.evaluation_report import render, to_json, write
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Band,
    Better,
    Chart,
    Column,
    Finding,
    Outcome,
    PictureRow,
    Pictures,
    Series,
    Table,
    Weight,
    read_outcome,
    series_of,
)
from evaluation.reporting.outcome import to_json as outcome_json

CUTS = (0.0, 0.5, 1.0)
FACTS: dict[str, Any] = {
    "command": "collafuse evaluate all --quick",
    "started_at": "2026-01-02T03:04:05+00:00",
    "seconds": 61.0,
    "machine": "2 cores",
    "versions": {"torch": "2.13.0"},
    "design": {"seeds": [0, 1, 2], "updates": 500, "sampler": "ddim"},
    "networks": 12,
    "extractor": "a classifier",
    "data": {
        "name": "digits <8x8>",
        "fingerprint": "0123456789abcdef",
        "shape": [1, 8, 8],
        "clients": [{"name": "north", "train_images": 1200, "held_out_images": 30, "labels": ["0", "1"]}],
    },
}


def outcome(*findings: Finding, suite: str = "sweep") -> Outcome:
    figures = tuple(spread((1.0 + cut, 1.1 + cut, 1.2 + cut)) for cut in CUTS)
    chart = Chart(
        "Fidelity & cut",
        "client share",
        "KID",
        (series_of("a < b", CUTS, figures),),
        (Band("floor", 0.1, 0.2),),
    )
    image = png_data_uri(np.zeros((1, 8, 8), dtype=np.float32))
    return Outcome(
        suite=suite,
        title="The cut",
        question="Where?",
        method="So.",
        findings=findings,
        tables=(
            Table(
                "Figures",
                (
                    Column("cut"),
                    Column("FID", better=Better.LESS),
                    Column("share", "%", scale=100, decimals=0),
                ),
                (("none", figures[0], 0.25), ("all", None, 1)),
            ),
        ),
        charts=(chart, chart.__class__(**{**vars(chart), "title": "Again", "log_y": True})),
        pictures=(Pictures("Images", ("one",), (PictureRow("finished", (image,)),)),),
        limits=("Small.",),
    )


CLAIM = Finding("Half is better than none <b>.", Weight.CLAIM)
BROKEN = Finding("A control that must succeed did not.", Weight.FAILED_CONTROL)


def test_an_outcome_survives_being_written_and_read(tmp_path: Path) -> None:
    made = outcome(CLAIM, BROKEN)
    path = tmp_path / "sweep.json"
    path.write_text(outcome_json(made))
    assert read_outcome(path) == made


@pytest.mark.parametrize(
    "damage", [lambda text: text[:100], lambda text: text.replace("outcome-v1", "outcome-v0")]
)
def test_a_damaged_outcome_says_what_to_do(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(damage(outcome_json(outcome(CLAIM))))
    with pytest.raises(SummaryError, match="remove the file and run again"):
        read_outcome(path)


def test_a_table_whose_rows_do_not_fit_is_refused() -> None:
    with pytest.raises(SummaryError, match="2 cells under 1 columns"):
        Table("T", (Column("a"),), ((1, 2),))


def test_the_page_needs_nothing_outside_itself_and_escapes_what_it_shows() -> None:
    page = render([outcome(CLAIM)], FACTS)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(http" not in page
    assert "digits &lt;8x8&gt;" in page
    assert "none &lt;b&gt;" in page
    assert "<b>" not in page


def test_claims_are_gathered_and_a_failed_control_comes_first() -> None:
    page = render([outcome(CLAIM, BROKEN)], FACTS)
    assert page.index("Controls that failed") < page.index("What stands")
    assert (
        page.count(CLAIM.text.replace("<b>", "&lt;b&gt;")) == 2
    )  # where it is gathered, and with its experiment
    assert "Controls that failed" not in render([outcome(CLAIM)], FACTS)


def test_the_page_says_how_often_claims_err() -> None:
    page = " ".join(render([outcome(CLAIM)], FACTS).split())
    assert "about one in twenty still has a claim" in page


def test_without_a_claim_the_page_says_so() -> None:
    assert "at this budget nothing is claimed" in render([outcome()], FACTS)


def test_cells_are_shown_as_their_columns_want_them() -> None:
    page = render([outcome()], FACTS)
    assert "1.100" in page
    assert "0.100" in page
    assert "<td>25</td>" in page
    assert "<td>100</td>" in page
    assert "<td>–</td>" in page
    assert "less is better" in page


def test_drawings_share_no_identifier_and_follow_the_colours_of_the_page() -> None:
    page = render([outcome(), outcome(suite="knobs")], FACTS)
    first, second = (chart_svg(chart) for chart in outcome().charts)
    names = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert names[0]
    assert not names[0] & names[1]
    for svg in (first, second):
        assert set(re.findall(r"#([^\")]+)[\")]", svg)) <= set.union(*names)
        assert "var(--s1)" in svg
        assert "#0000" not in svg
        assert "<text" in svg  # letters, not outlines: a reader can search them
    assert page.count("<svg") == 4


def test_two_levels_in_a_drawing_can_be_told_apart() -> None:
    line = series_of("line", (0.0, 1.0), tuple(spread((mean, mean, mean)) for mean in (0.3, 0.4)))
    levels = (Band("floor", 0.1, 0.2), Band("blind", 0.5, 0.6), Band("noise", 0.8, 0.9))
    drawn = [chart_svg(Chart("two", "x", "y", (line,), levels[:count])) for count in (1, 2, 3)]
    assert [svg.count("<pattern") for svg in drawn] == [0, 1, 2]
    assert "#0000" not in drawn[-1]


def test_the_summary_holds_the_figures_and_no_pictures() -> None:
    summary = json.loads(to_json([outcome(CLAIM)], FACTS))
    assert summary["networks"] == 12
    assert summary["experiments"][0]["tables"][0]["rows"][0][1]["n"] == 3
    assert "data:image" not in json.dumps(summary)


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match="choose another --out"):
        write(tmp_path / "out", [outcome()], FACTS)


@pytest.mark.parametrize(("lines", "above"), [(3, False), (6, True)])
def test_a_long_legend_stands_above_what_is_drawn(lines: int, above: bool) -> None:
    drawn = tuple(Series(f"line {index}", (0.0, 1.0), (1.0 + index, 20.0 + index)) for index in range(lines))
    svg = chart_svg(Chart("Many", "x", "y", drawn, log_y=True))
    places = [float(y) for y in re.findall(r' y="([\d.]+)"[^>]*>line \d<', svg)]
    (frame,) = re.findall(r'patch_2">\s*<path d="([^"]+)"', svg)
    top = min(float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", frame))
    assert len(places) == lines
    assert all((place < top) is above for place in places)
    assert ">10<" in svg  # and no power of ten
