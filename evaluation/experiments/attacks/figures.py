"""Figures by cut: measured for every seed, kept with their spread, shown as a table or as lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Band, Cell, Chart, Column, Series, Table, series_of


@dataclass(frozen=True)
class ByCut:
    """cuts: ascending;  figures: name → one spread over seeds for each cut, None where the attack cannot be made."""

    cuts: tuple[float, ...]
    figures: Mapping[str, tuple[Spread | None, ...]]

    def at(self, name: str, cut: float) -> Spread | None:
        """One figure, or None where there is none."""
        return self.figures[name][self.cuts.index(cut)] if name in self.figures else None

    def table(self, title: str, columns: Sequence[Column], note: str) -> Table:
        """One row for each cut, one column for each of these figures, by its name."""
        rows: list[tuple[Cell, ...]] = [
            (cut, *(self.at(column.name, cut) for column in columns)) for cut in self.cuts
        ]
        return Table(title, (Column("cut", decimals=2), *columns), tuple(rows), note)

    def series(self, name: str, shown: str | None = None) -> Series:
        """A line through the cuts that have this figure."""
        found = [(cut, figure) for cut, figure in zip(self.cuts, self.figures[name], strict=True) if figure]
        return series_of(shown or name, tuple(cut for cut, _ in found), tuple(figure for _, figure in found))

    def chart(self, title: str, y_label: str, names: Sequence[str], bands: Sequence[Band] = ()) -> Chart:
        """Lines over the cut."""
        return Chart(
            title,
            "cut: the client's share of the chain",
            y_label,
            tuple(self.series(name) for name in names),
            tuple(bands),
            note="Mean and one standard deviation over seeds.",
        )


def by_cut(
    cuts: Sequence[float], seeds: Sequence[int], measure: Callable[[float, int], Mapping[str, float]]
) -> ByCut:
    """Measures at every cut with every seed.

    measure: (cut, seed) → name → value; a figure that some seed lacks at a cut is None there.
    """
    figures: dict[str, list[Spread | None]] = {}
    for place, cut in enumerate(cuts):
        found = [measure(cut, seed) for seed in seeds]
        for name in dict.fromkeys(name for part in found for name in part):
            values = [part[name] for part in found if name in part]
            line = figures.setdefault(name, [None] * len(cuts))
            line[place] = spread(values) if len(values) == len(seeds) else None
    kept = {name: tuple(line) for name, line in figures.items() if any(line)}
    return ByCut(tuple(cuts), kept)
