import base64
import dataclasses
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from evaluation.data.images import ClientData
from evaluation.errors import DataError, EvaluationError, SummaryError
from evaluation.metrics.comparison import Comparison, Verdict
from evaluation.metrics.features import Classifier
from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_report import count, fixed, render, write
from evaluation.reporting.demo_results import Accounting, Curve, DemoResult, from_json, to_json, total
from evaluation.reporting.gallery import Gallery, png_data_uri
from evaluation.reporting.plots import line_chart
from tests.evaluation.trial import demo_result

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Nesting(HTMLParser):
    """Fails on a tag that closes what is not open; remembers what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(clients: tuple[ClientData, ...], classifier: Classifier) -> tuple[DemoResult, list[Gallery]]:
    return demo_result(clients, classifier)


@pytest.fixture(scope="module")
def page(made: tuple[DemoResult, list[Gallery]]) -> str:
    return render(*made)


def shown(figure: Spread | None, decimals: int, scale: float = 1.0) -> str:
    assert figure is not None
    return f"{fixed(figure.mean, decimals, scale)}±\u2009{fixed(figure.standard_deviation, decimals, scale)}"


def visible(page: str) -> str:
    """The page's text without tags, style sheet and data."""
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "\n", html.unescape(re.sub(r"<[^>]*>", "", text)))


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    assert parser.sources
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert "http" not in re.sub(r"https?://www\.w3\.org", "", page)
    assert "@import" not in page
    assert "url(" not in page


def test_every_figure_of_a_client_is_on_the_page(page: str, made: tuple[DemoResult, list[Gallery]]) -> None:
    text = visible(page)
    for client in made[0].clients:
        for fidelity in (client.collaborative, client.isolated, client.real_floor):
            assert shown(fidelity.frechet, 3) in text
            assert shown(fidelity.kid, 3) in text
            assert shown(fidelity.agreement, 1, 100) in text
        given = client.disclosure
        for error in (
            given.released_mse,
            given.reconstruction_mse,
            given.blind_mse,
            given.noise_mse,
            given.open_mse,
        ):
            assert shown(error, 3) in text
        assert shown(given.released_psnr_db, 1) in text
        assert shown(given.reconstruction_psnr_db, 1) in text
        for seconds in (client.server_step_seconds, client.device_step_seconds, client.queue_lag_seconds):
            assert shown(seconds, 1, 1e3) in text
        assert client.budget.statement in text
        assert client.provider in text
        assert f"{client.train_images} training scans" in text
    assert text.count("not measured") == len(made[0].clients)


def test_every_figure_of_the_run_is_on_the_page(page: str, made: tuple[DemoResult, list[Gallery]]) -> None:
    result, text = made[0], visible(page)
    for number in (result.backbone_parameters, result.head_parameters, 98_765, 432):
        assert count(number) in text
    for number in dataclasses.astuple(result.accounting["samples"]):
        assert f">{count(number)}</td>" in page
    for number in dataclasses.astuple(total([client.accounting for client in result.clients])):
        assert f">{count(number)}</td>" in page
    assert shown(result.queue_lag_seconds["samples"], 1, 1e3) in text
    assert shown(result.samples_per_network_call, 1) in text
    assert fixed(result.classifier.held_out_accuracy, 1, 100) in text
    assert result.schedule_id in text
    assert result.machine in text
    assert result.started_at in text


def test_what_the_run_says_of_itself_cannot_break_the_page(page: str) -> None:
    assert "a test machine &lt;&amp;&gt;" in page


def test_each_comparison_is_spelled_out(page: str, made: tuple[DemoResult, list[Gallery]]) -> None:
    text = visible(page)
    assert "Fréchet distance: collaborative training is better by" in text
    assert "better for 3 of 3 clients" in text
    swapped = [
        dataclasses.replace(client, comparisons=tuple(reversed_verdict(c) for c in client.comparisons))
        for client in made[0].clients
    ]
    other = visible(render(dataclasses.replace(made[0], clients=tuple(swapped)), made[1]))
    assert "Fréchet distance: isolated training is better by" in other


def reversed_verdict(comparison: Comparison) -> Comparison:
    other = {Verdict.COLLABORATIVE: Verdict.ISOLATED, Verdict.ISOLATED: Verdict.COLLABORATIVE}
    return dataclasses.replace(comparison, verdict=other.get(comparison.verdict, comparison.verdict))


def test_each_image_of_the_galleries_is_on_the_page(
    page: str, made: tuple[DemoResult, list[Gallery]]
) -> None:
    tiles = sum(4 * len(gallery.labels) for gallery in made[1])
    assert page.count("<img ") == tiles
    for gallery in made[1]:
        assert png_data_uri(gallery.finished[-1]) in page


def test_a_picture_holds_the_pixels_it_was_made_from() -> None:
    image = np.asarray([[[-1.0, 1.0], [0.0, 7.0]]], dtype=np.float32)
    uri = png_data_uri(image)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert np.asarray(picture).tolist() == [[0, 255], [128, 255]]
    colour = np.zeros((3, 2, 2), dtype=np.float32)
    colour[0] = 1.0
    picture = Image.open(io.BytesIO(base64.b64decode(png_data_uri(colour).split(",")[1])))
    assert picture.getpixel((0, 0)) == (255, 128, 128)


def test_galleries_of_other_clients_are_refused(made: tuple[DemoResult, list[Gallery]]) -> None:
    with pytest.raises(DataError, match="galleries of"):
        render(made[0], made[1][::-1])


def test_a_gallery_with_a_missing_image_is_refused(made: tuple[DemoResult, list[Gallery]]) -> None:
    with pytest.raises(DataError, match="isolated"):
        dataclasses.replace(made[1][0], isolated=made[1][0].isolated[:-1])


def test_long_curves_are_thinned_and_empty_ones_said_to_be_empty() -> None:
    long = Curve("long", tuple(range(1, 5001)), tuple(1.0 / step for step in range(1, 5001)))
    assert 100 <= line_chart([long], ["s1"]).count(",") <= 140
    assert "No losses" in line_chart([Curve("none", (), ())], ["s1"])


def test_the_summary_round_trips(made: tuple[DemoResult, list[Gallery]]) -> None:
    text = to_json(made[0])
    assert from_json(text) == made[0]
    plain = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the summary"))
    client = plain["clients"][0]
    assert client["evaluations"] == {"server": 16, "device": 4, "device_share": 0.2}
    assert client["accounting"]["duplicated"] == 2
    assert client["collaborative"]["frechet"]["standard_deviation"] > 0


def test_numbers_that_are_none_cannot_enter_a_summary() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Spread(float("nan"), 1.0, 1.0, 1.0, 1.0, 3)
    with pytest.raises(ValidationError, match="finite"):
        Curve("loss", (1,), (float("inf"),))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"t_cut": 30', '"t_cut": "late"'),
        ("summary-v1", "summary-v9"),
        ('"machine"', '"machinery"'),
        ("{", ""),
    ],
)
def test_a_damaged_summary_is_one_clear_line(
    made: tuple[DemoResult, list[Gallery]], before: str, after: str
) -> None:
    text = to_json(made[0])
    assert before in text
    with pytest.raises(SummaryError, match="run the demo again") as caught:
        from_json(text.replace(before, after, 1))
    assert "\n" not in str(caught.value)


def test_accounts_add_up() -> None:
    one = Accounting(1, 2, 3, 4, 5, 6, 7, 8)
    assert total([one, one]) == Accounting(2, 4, 6, 8, 10, 12, 14, 16)


def test_both_files_are_written(tmp_path: Path, made: tuple[DemoResult, list[Gallery]], page: str) -> None:
    report, summary = write(tmp_path / "out", *made)
    assert report.read_text(encoding="utf-8") == page
    assert from_json(summary.read_text(encoding="utf-8")) == made[0]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvaluationError, match="cannot write the report"):
        write(tmp_path / "file", *made)
