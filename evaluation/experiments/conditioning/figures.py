"""What is measured of images that were asked for: whether they show it, and how near they are to real ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.conditioning.asking import Asked
from evaluation.conditioning.judging import Heard, by_kind, heard
from evaluation.data.images import LabelledImages
from evaluation.experiments.conditioning.study import Case, Study, cases
from evaluation.measuring.quality import DRAWS
from evaluation.metrics.extractors import Extractor, open_extractor
from evaluation.metrics.sets import SetFidelity, floor_of, measure_sets
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Better, Cell, Column
from evaluation.running.workbench import Progress

HALF_SAMPLES = 2
"""The least that may be asked for: the spread over seeds is what is reported, not the interval of one set."""

COLUMNS = (
    Column("lesion as asked", "%", Better.MORE, 1, 100),
    Column("on the side asked", "%", Better.MORE, 1, 100),
    Column("size, rank correlation", "", Better.MORE, 2),
    Column("FID", "", Better.LESS, 2),
    Column("KID", "", Better.LESS, 3),
    Column("precision", "%", Better.MORE, 1, 100),
    Column("recall", "%", Better.MORE, 1, 100),
)
"""Of a table's row by `AskedFigures.cells`."""


@dataclass(frozen=True)
class AskedFigures:
    """One case, over seeds."""

    presence: Spread
    side: Spread
    size: Spread
    fid: Spread
    kid: Spread
    precision: Spread
    recall: Spread

    def cells(self) -> tuple[Cell, ...]:
        """The row's cells under `COLUMNS`."""
        return (self.presence, self.side, self.size, self.fid, self.kid, self.precision, self.recall)


def measure_cases(study: Study, progress: Progress) -> dict[Case, AskedFigures]:
    """Makes and measures every case with the networks of every seed."""
    listed, seeds = cases(study.design), study.design.seeds
    extractor = extractor_of(study)
    found: dict[Case, list[tuple[Heard, SetFidelity]]] = {case: [] for case in listed}
    for index, seed in enumerate(seeds):
        for place, case in enumerate(listed):
            progress(index * len(listed) + place, len(seeds) * len(listed), f"seed {seed}, {case.way}")
            found[case].append(_measured(study, extractor, case, seed))
        study.forget()
    return {case: _over_seeds(values) for case, values in found.items()}


def extractor_of(study: Study) -> Extractor:
    """The user's, or the judge: the evaluation's own may have been trained on other images."""
    path = study.bench.setting.extractor
    return study.judge if path is None else open_extractor(path)


def real_cells(study: Study) -> tuple[Cell, ...]:
    """What real images score: the held-out ones by the judge, and all of the clinic's against one another."""
    seen, real = real_heard(study), by_kind(study.client.everything)
    floor = floor_of(real, extractor_of(study), _size(study, real), judge=study.judge)
    distances = (floor.fid.value, floor.kid.value, floor.precision.value, floor.recall.value)
    return (seen.presence, seen.side, seen.size, *distances)


def real_heard(study: Study) -> Heard:
    """How well the judge sees what held-out phantoms of this clinic show."""
    held_out = study.client.held_out
    return heard(study.judge, held_out.images, Asked(held_out.attributes))


def _measured(study: Study, extractor: Extractor, case: Case, seed: int) -> tuple[Heard, SetFidelity]:
    made, real = study.images(case, seed), by_kind(study.client.everything)
    fidelity = measure_sets(
        LabelledImages(made, study.asked.kinds),
        real,
        extractor,
        judge=study.judge,
        size=_size(study, real),
        draws=DRAWS,
        bootstrap=HALF_SAMPLES,
    )
    return heard(study.judge, made, study.asked), fidelity


def _size(study: Study, real: LabelledImages) -> int:
    return min(len(study.asked), len(real) // 2)


def _over_seeds(values: Sequence[tuple[Heard, SetFidelity]]) -> AskedFigures:
    def over(value_of: Callable[[Heard, SetFidelity], float]) -> Spread:
        return spread(value_of(*each) for each in values)

    return AskedFigures(
        presence=over(lambda seen, _: seen.presence),
        side=over(lambda seen, _: seen.side),
        size=over(lambda seen, _: seen.size),
        fid=over(lambda _, sets: sets.fid.value),
        kid=over(lambda _, sets: sets.kid.value),
        precision=over(lambda _, sets: sets.precision.value),
        recall=over(lambda _, sets: sets.recall.value),
    )
