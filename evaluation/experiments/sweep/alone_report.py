"""What is shown and said of either side alone: tables, a chart, and findings against the chain of both."""

from collections.abc import Sequence

from evaluation.experiments.sweep.alone import Alone
from evaluation.experiments.sweep.figures import CUT_LABEL
from evaluation.experiments.sweep.point import CutPoint
from evaluation.measuring.quality import COLUMNS, ClientQuality, Figure, Real, floor_band
from evaluation.measuring.verdicts import Pair, pairwise
from evaluation.reporting.outcome import Chart, Column, Finding, Table, series_of

CHAIN = "both together"
OF_SERVER = (Alone.SERVER, Alone.SERVER_ESTIMATE)


def alone_table(points: Sequence[CutPoint], real: Real) -> Table:
    """All figures of fidelity of the chain, and of either side alone."""
    rows = [
        (point.name, words, *quality.cells(real))
        for point in points
        if point.inner
        for words, quality in ((CHAIN, point.proportional), *point.alone.items())
    ]
    return Table(
        f"Either side alone, against the {real}",
        (Column("cut"), Column("made by"), *COLUMNS.values()),
        tuple(rows),
        note="Means over clients, the same networks, labels, noise and number of evaluations. Over all steps a network is asked "
        "at steps that it was not trained on: the server's at and below the cut, a device's above it.",
    )


def alone_chart(points: Sequence[CutPoint], floor: Sequence[ClientQuality]) -> Chart:
    """FID against held-out images over the cut, in decades, for networks asked what they never learned make anything."""
    of, inner = (Real.HELD_OUT, Figure.FID), [point for point in points if point.inner]
    cuts = tuple(point.cut_ratio for point in points)
    inner_cuts = tuple(point.cut_ratio for point in inner)
    return Chart(
        f"FID of either side alone, against {Real.HELD_OUT}",
        CUT_LABEL,
        "FID",
        (
            series_of(CHAIN, cuts, tuple(point.proportional.known(*of) for point in points)),
            *(series_of(a, inner_cuts, tuple(p.alone[a].known(*of) for p in inner)) for a in Alone),
        ),
        (floor_band(floor, *of),),
        log_y=True,
        note="The shade is one standard deviation over seeds on both sides. At c = 0 the server has the chain to itself, at "
        "c = 1 a device has, with a network trained for it.",
    )


def alone_findings(points: Sequence[CutPoint]) -> list[Finding]:
    """Either side alone against the chain: on held-out images, and what the server could finish on training images too."""
    asked = [(alone, Real.HELD_OUT) for alone in Alone] + [(alone, Real.TRAIN) for alone in OF_SERVER]
    found = []
    for alone, real in asked:
        pairs = [
            Pair(
                point.name,
                point.alone[alone].known(real, Figure.FID),
                point.proportional.known(real, Figure.FID),
            )
            for point in points
            if point.inner
        ]
        sentences = {
            sign: f"FID against {real}: {alone}, is {verdict} at"
            for sign, verdict in (
                (1, "better than both together"),
                (-1, "worse than both together"),
                (0, "not separated from both together by the seeds"),
            )
        }
        found += pairwise(COLUMNS[Figure.FID], pairs, sentences)
    return found
