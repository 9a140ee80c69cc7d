"""The report of a run: one HTML file that needs nothing outside itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from diffusion.schedule import NoiseSchedule
from evaluation.errors import DataError, EvaluationError
from evaluation.metrics.comparison import Verdict, sentence
from evaluation.metrics.fidelity import Fidelity
from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_results import DemoResult, to_json, total
from evaluation.reporting.gallery import CutLine, Gallery, blocks, chain_svg
from evaluation.reporting.plots import Interval, interval_chart, line_chart

MINUS, THIN = "\u2212", "\u2009"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FATES = (
    ("attempted", "handed to a publisher"),
    ("acknowledged", "confirmed by the broker"),
    ("stored", "written durably by the receiver"),
    ("lost", "acknowledged, never stored"),
    ("duplicated", "arrived again, recognised"),
    ("recovered", "stored after a second delivery"),
    ("dead_lettered", "set aside with a reason"),
    ("unexpected", "arrived, never sent"),
)


def write(folder: Path, result: DemoResult, galleries: Sequence[Gallery]) -> tuple[Path, Path]:
    """Writes `report.html` and `summary.json` into a folder, which is made if need be; returns both paths.

    Raises:
        EvaluationError: the folder cannot be written to.
    """
    report, summary = folder / "report.html", folder / "summary.json"
    html, text = render(result, galleries), to_json(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report.write_text(html, encoding="utf-8")
        summary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(
            f"cannot write the report to {folder}: {error.strerror}; choose another"
        ) from error
    return report, summary


def render(result: DemoResult, galleries: Sequence[Gallery]) -> str:
    """The report as HTML. One gallery for every client of the result, in the same order.

    Raises:
        DataError: clients and galleries do not match.
    """
    names = [client.name for client in result.clients]
    if names != [gallery.client for gallery in galleries] or not names:
        raise DataError(f"galleries of {[gallery.client for gallery in galleries]} for clients {names}")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": fixed,
        "spread": with_spread,
        "milliseconds": lambda figure: with_spread(figure, 1, scale=1e3),
        "count": count,
        "words": lambda n: NUMBERS[n] if n < len(NUMBERS) else count(n),
        "name": lambda text: str(text).replace("_", " "),
        "sentence": sentence,
    }
    return environment.get_template("demo.html.j2").render(
        r=result,
        total=total([client.accounting for client in result.clients]),
        fates=FATES,
        galleries={gallery.client: blocks(gallery) for gallery in galleries},
        chains=_chains(result, galleries[0]),
        curves=_curves(result),
        intervals=_intervals(result),
        findings=_findings(result),
    )


def fixed(value: float, decimals: int = 3, scale: float = 1.0) -> str:
    """A number with a fixed number of decimals and a true minus sign; zero is never negative."""
    text = f"{value * scale:.{decimals}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def with_spread(figure: Spread | None, decimals: int = 3, scale: float = 1.0) -> Markup:
    """Mean ± standard deviation, with the middle 95 % and n as a tooltip; a dash where nothing was measured."""
    if figure is None:
        return Markup('<span class="none">not measured</span>')
    low, high = (fixed(value, decimals, scale) for value in (figure.low, figure.high))
    return Markup('<span title="middle 95 %: {} to {}, n = {}">{}<i>±{}{}</i></span>').format(
        low,
        high,
        figure.n,
        fixed(figure.mean, decimals, scale),
        THIN,
        fixed(figure.standard_deviation, decimals, scale),
    )


def count(value: int) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{value:,}".replace(",", THIN)


def _chains(result: DemoResult, gallery: Gallery) -> dict[str, str]:
    """The drawing of the chain, once for wide pages and once for narrow ones."""
    alpha_bar = NoiseSchedule.named(result.schedule_name, result.schedule_steps).alpha_bar
    cuts = [
        CutLine(client.name, client.t_cut, client.evaluations.server, client.evaluations.device)
        for client in result.clients
    ]
    return {
        name: chain_svg(gallery.real[0], alpha_bar, cuts, width=width, frames=frames)
        for name, width, frames in (("wide", 960, 11), ("narrow", 350, 6))
    }


def _curves(result: DemoResult) -> dict[str, str]:
    """Loss curves: the backbone by noise level, the clients' heads, the isolated models."""
    drawn = {
        "backbone": result.backbone_curves,
        "heads": [replace(client.head_curve, name=client.name) for client in result.clients],
        "isolated": [replace(client.isolated_curve, name=client.name) for client in result.clients],
    }
    return {name: line_chart(curves, _styles(len(curves))) for name, curves in drawn.items()}


def _styles(n: int) -> list[str]:
    """Classes of the style sheet, which has six."""
    return [f"s{index % 6 + 1}" for index in range(n)]


def _intervals(result: DemoResult) -> dict[str, str]:
    """One interval chart per metric of fidelity."""
    charts: tuple[tuple[str, str, Callable[[Fidelity], Spread], float], ...] = (
        ("frechet", "Fréchet distance, pixels (less is better)", lambda f: f.frechet, 1.0),
        ("kid", "kernel distance, features (less is better)", lambda f: f.kid, 1.0),
        ("agreement", "recognised as the label asked for, % (more is better)", lambda f: f.agreement, 100.0),
    )
    return {name: interval_chart(_marks(result, pick), axis, scale) for name, axis, pick, scale in charts}


def _marks(result: DemoResult, pick: Callable[[Fidelity], Spread]) -> list[Interval]:
    return [
        Interval(client.name, name, name, pick(figures), pick(client.real_floor))
        for client in result.clients
        for name, figures in (("collaborative", client.collaborative), ("isolated", client.isolated))
    ]


def _findings(result: DemoResult) -> list[str]:
    """What the comparisons amount to over all clients, one sentence per metric."""
    lines = []
    for comparisons in zip(*(client.comparisons for client in result.clients), strict=True):
        verdicts = [comparison.verdict for comparison in comparisons]
        parts = [
            f"{words} for {verdicts.count(verdict)} of {len(verdicts)} clients"
            for verdict, words in (
                (Verdict.COLLABORATIVE, "collaborative training is better"),
                (Verdict.ISOLATED, "isolated training is better"),
                (Verdict.UNDECIDED, "the difference is inside the spread"),
            )
            if verdict in verdicts
        ]
        metric = comparisons[0].metric
        lines.append(f"{metric[:1].upper()}{metric[1:]}: {', '.join(parts)}.")
    return lines
