"""Tables, charts and sentences of the experiment on asking."""

from collections.abc import Mapping, Sequence

from evaluation.conditioning.asking import Way
from evaluation.conditioning.judging import Heard
from evaluation.experiments.conditioning.figures import COLUMNS, AskedFigures
from evaluation.experiments.conditioning.generation import Guidance
from evaluation.experiments.conditioning.study import HEAD_ONLY, NOBODY, SCALES, STRONG, Case, sides
from evaluation.metrics.claim import better, claim_in_words
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import (
    Band,
    Cell,
    Chart,
    Column,
    Finding,
    Series,
    Table,
    Weight,
    series_of,
)

Found = Mapping[Case, AskedFigures]

LEAST_PRESENCE = 0.8
"""Of the judge on real phantoms. With less, an image that shows what was asked would often be called wrong."""
CHANCE_REACH = 0.15
"""How far from chance a control that must fail may come out, with a few hundred images of one draw of requests."""
_WORDS = {Way.LABEL: "by label", Way.ATTRIBUTES: "by attributes", Way.TEXT: "in words"}


def way_table(found: Found, main: float, real: Sequence[Cell]) -> Table:
    """Every way and scale, both sides asked, at the main cut."""
    rows: list[tuple[Cell, ...]] = [("nobody", 0.0, *found[Case(main, Way.TEXT, NOBODY)].cells())]
    rows += [
        (_WORDS[case.way], case.guidance.head, *figures.cells())
        for way in Way
        for case, figures in found.items()
        if case.way is way and case.cut_ratio == main and case.guidance.server == case.guidance.head > 0
    ]
    return Table(
        "What was asked, and what is seen",
        (Column("asked"), Column("scale", "", decimals=1), *COLUMNS),
        (*rows, ("real images", None, *real)),
        "Server and head are both asked. Means over seeds with the spread. The first three columns are a judge's word: chance is "
        "50 % for the lesion, at most 50 % for the side and 0 for the size; the last row is the judge on real images it has not "
        "seen, and real against real.",
    )


def side_table(found: Found, cuts: Sequence[float]) -> Table:
    """Who is asked, in words, at every hand-over."""
    rows = [
        (f"{cut:g}", guidance.words, *found[Case(cut, Way.TEXT, guidance)].cells())
        for cut in cuts
        for guidance in sides()
    ]
    return Table(
        "On which side of the cut it is asked",
        (Column("handed over at"), Column("asked"), *COLUMNS),
        tuple(rows),
        f"In words, at scale {STRONG:g}. A head that alone is asked keeps the prompt on the device.",
    )


def heard_chart(found: Found, main: float, real: Heard) -> Chart:
    """The lesion as asked, over scale, one line for each way."""
    return Chart(
        "Lesion as asked, over the guidance scale",
        "guidance scale",
        "share of images",
        tuple(_line(_WORDS[way], _by_scale(found, main, way), "presence") for way in Way),
        (Band("the judge on real images", real.presence, real.presence), Band("chance", 0.5, 0.5)),
        note="Server and head asked; one standard deviation over seeds.",
    )


def fidelity_chart(found: Found, main: float) -> Chart:
    """Precision and recall over scale, asked in words."""
    words = _by_scale(found, main, Way.TEXT)
    return Chart(
        "What guidance does to fidelity",
        "guidance scale",
        "share of images",
        (_line("precision", words, "precision"), _line("recall", words, "recall")),
        note="Asked in words on both sides; one standard deviation over seeds.",
    )


def control_findings(found: Found, main: float, real: Heard, judge: str) -> list[Finding]:
    """The judge on real images must succeed; images nobody asked for, and a size that no label says, must not be there."""
    nobody = found[Case(main, Way.TEXT, NOBODY)].presence
    label = found[Case(main, Way.LABEL, Guidance(STRONG, STRONG))].size
    return [
        Finding(
            f"Control that must succeed: the judge ({judge}) sees on {100 * real.presence:.0f} % of real held-out images whether "
            f"there is a lesion, on {100 * real.side:.0f} % on which side, and ranks their sizes with {real.size:.2f}.",
            Weight.CONTROL if real.presence >= LEAST_PRESENCE else Weight.FAILED_CONTROL,
        ),
        Finding(
            f"Control that must fail: of images that nobody was asked for, {100 * nobody.mean:.0f} % have the lesion that they "
            "should, or none; chance is 50 %.",
            Weight.CONTROL if abs(nobody.mean - 0.5) <= CHANCE_REACH else Weight.FAILED_CONTROL,
        ),
        Finding(
            "Control that must fail: asked by label, which cannot say how large, the sizes asked for and seen correlate with "
            f"{label.mean:.2f} ± {label.standard_deviation:.2f}.",
            Weight.CONTROL if abs(label.mean) <= 2 * CHANCE_REACH else Weight.FAILED_CONTROL,
        ),
    ]


def claim_findings(found: Found, cuts: Sequence[float]) -> list[Finding]:
    """What the spread over seeds allows to be said of ways, scales and sides."""
    main = cuts[0]
    nobody = {"asking nobody": found[Case(main, Way.TEXT, NOBODY)]}
    ways = nobody | {
        f"asking {words}": found[Case(main, way, Guidance(STRONG, STRONG))] for way, words in _WORDS.items()
    }
    scales = {f"scale {scale:g}": found[Case(main, Way.TEXT, Guidance(scale, scale))] for scale in SCALES}
    said = [
        *_against_first("lesion as asked", _of(ways, "presence")),
        *_against_first("side as asked", _of(ways, "side")),
        *_against_first("lesion as asked in words", _of(scales, "presence")),
        *_against_first("recall, asked in words", _of(scales, "recall")),
    ]
    for cut in cuts:
        head_first = sorted(sides(), key=lambda guidance: guidance != HEAD_ONLY)
        asked = {f"asking {each.words}": found[Case(cut, Way.TEXT, each)] for each in head_first}
        said += _against_first(f"lesion as asked in words, handed over at {cut:g}", _of(asked, "presence"))
    return said


def _against_first(metric: str, figures: Mapping[str, Spread]) -> list[Finding]:
    """Every other set-up of `figures` against the first of them, by a share of images. The comparisons share one error rate."""
    (first, reference), *others = figures.items()
    claims = [
        better(
            f"{metric}, {name} against {first}",
            Unit.SHARE,
            figure,
            reference,
            (name, first),
            among=len(others),
        )
        for name, figure in others
    ]
    return [
        Finding(claim_in_words(claim), Weight.UNDECIDED if claim.better is None else Weight.CLAIM)
        for claim in claims
    ]


def _by_scale(found: Found, main: float, way: Way) -> dict[float, AskedFigures]:
    """Both sides asked equally: scale → figures, 0 first, where every way is the same."""
    both = {0.0: found[Case(main, Way.TEXT, NOBODY)]}
    for scale in SCALES:
        case = Case(main, way, Guidance(scale, scale))
        if case in found:
            both[scale] = found[case]
    return both


def _line(name: str, by_scale: Mapping[float, AskedFigures], figure: str) -> Series:
    return series_of(name, tuple(by_scale), tuple(getattr(each, figure) for each in by_scale.values()))


def _of(named: Mapping[str, AskedFigures], figure: str) -> dict[str, Spread]:
    return {name: getattr(each, figure) for name, each in named.items()}
