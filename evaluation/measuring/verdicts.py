"""Sentences out of figures: what the spread over seeds separates is claimed, what it does not is called undecided.

By Welch's interval (`metrics.claim`); comparisons that are made together share its error rate of 5 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.metrics.claim import better
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Better, Column, Finding, Weight


@dataclass(frozen=True)
class Named:
    """A set-up and one figure of it, over seeds."""

    name: str
    figure: Spread


def better_of(column: Column, first: Spread, second: Spread, *, among: int = 1) -> int:
    """1 where the first is better, -1 where the second is, 0 where the seeds do not separate them.

    among: comparisons made together.
    """
    unit = Unit.SHARE if column.better is Better.MORE else Unit.DISTANCE
    winner = better(column.name, unit, first, second, ("first", "second"), among=among).better
    return 0 if winner is None else 1 if winner == "first" else -1


def against(
    column: Column,
    rivals: Sequence[Named],
    reference: Named,
    *,
    where: str = "",
) -> list[Finding]:
    """Every rival against one reference, in at most three sentences: the better, the worse, and the undecided.

    where: said of the figure, such as against which images it was measured.
    """
    signs = [better_of(column, rival.figure, reference.figure, among=len(rivals)) for rival in rivals]
    what = f"{column.name} {where}".strip()
    told = f"{reference.name} ({in_words(column, reference.figure)})"
    sentences = {
        1: (f"{what}: better than {told} beyond the spread over seeds", Weight.CLAIM),
        -1: (f"{what}: worse than {told} beyond the spread over seeds", Weight.CLAIM),
        0: (f"{what}: not separated from {told} by the seeds, so that nothing is claimed", Weight.UNDECIDED),
    }
    found = []
    for sign, (sentence, weight) in sentences.items():
        group = [rival for rival, found_sign in zip(rivals, signs, strict=True) if found_sign == sign]
        if group:
            listed = ", ".join(f"{rival.name} ({in_words(column, rival.figure)})" for rival in group)
            found.append(Finding(f"{sentence}: {listed}.", weight))
    return found


@dataclass(frozen=True)
class Pair:
    """Two figures of one place, such as of one cut."""

    place: str
    first: Spread
    second: Spread


def pairwise(column: Column, pairs: Sequence[Pair], sentences: Mapping[int, str]) -> list[Finding]:
    """The first of every pair against its second, in at most three sentences with the places that each is true of.

    sentences: by the sign of `better_of`, without the places and the full stop.
    """
    signs = [better_of(column, pair.first, pair.second, among=len(pairs)) for pair in pairs]
    found = []
    for sign in (1, -1, 0):
        listed = ", ".join(
            f"{pair.place} ({in_words(column, pair.first)} against {in_words(column, pair.second)})"
            for pair, found_sign in zip(pairs, signs, strict=True)
            if found_sign == sign
        )
        if listed:
            found.append(Finding(f"{sentences[sign]}: {listed}.", Weight.CLAIM if sign else Weight.UNDECIDED))
    return found


def in_words(column: Column, figure: Spread) -> str:
    """Mean and standard deviation over seeds, as a table shows them: `3.10 ± 0.20`, `71 ± 2 %`."""
    mean, deviation = column.scale * figure.mean, column.scale * figure.standard_deviation
    unit = f" {column.unit}" if column.unit else ""
    return f"{mean:.{column.decimals}f} ± {deviation:.{column.decimals}f}{unit}"
