"""How good the images of one set-up are: for every seed and client, against the images it was trained on and held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from evaluation.data.images import ClientData, LabelledImages
from evaluation.errors import MeasurementsError
from evaluation.metrics.estimate import Estimate
from evaluation.metrics.sets import SetFidelity, comparable_size, floor_of, measure_sets
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.demo_report import fixed
from evaluation.reporting.outcome import Band, Better, Cell, Column
from evaluation.running.workbench import Workbench

HALF_SAMPLES = 40
"""Of each measurement, for its interval over the draw of images; the spread over seeds comes beside it."""
DRAWS = 8
"""Of images on both sides, the same for every model and seed, over which each figure is the mean."""


class Real(StrEnum):
    """Which real images the generated ones are held against."""

    TRAIN = "training images"
    HELD_OUT = "held-out images"


class Figure(StrEnum):
    """A figure of `SetFidelity`, by the name of its field."""

    FID = "fid"
    KID = "kid"
    PRECISION = "precision"
    RECALL = "recall"
    AGREEMENT = "agreement"


COLUMNS = {
    Figure.FID: Column("FID", "", Better.LESS, 2),
    Figure.KID: Column("KID", "", Better.LESS, 3),
    Figure.PRECISION: Column("precision", "%", Better.MORE, 0, 100.0),
    Figure.RECALL: Column("recall", "%", Better.MORE, 0, 100.0),
    Figure.AGREEMENT: Column("agreement", "%", Better.MORE, 0, 100.0),
}
"""How each is shown in a table."""


@dataclass(frozen=True)
class ClientQuality:
    """One client's images of one seed, against both sets of real ones."""

    train: SetFidelity
    held_out: SetFidelity

    def estimate(self, real: Real, figure: Figure) -> Estimate | None:
        """A figure with its interval over the draw of images; None for an agreement without a judge."""
        found: Estimate | None = getattr(self.train if real is Real.TRAIN else self.held_out, figure)
        return found


@dataclass(frozen=True)
class Quality:
    """A set-up. by_seed: for every seed, every client in the federation's order."""

    by_seed: tuple[tuple[ClientQuality, ...], ...]

    def over_seeds(self, real: Real, figure: Figure) -> Spread | None:
        """The mean over clients, one value for each seed; None where it could not be measured."""
        values = [_mean([client.estimate(real, figure) for client in clients]) for clients in self.by_seed]
        known = [value for value in values if value is not None]
        return spread(known) if len(known) == len(values) else None

    def known(self, real: Real, figure: Figure) -> Spread:
        """As `over_seeds` for a figure that every extractor gives.  Raises MeasurementsError for one that was not measured."""
        found = self.over_seeds(real, figure)
        if found is None:
            raise MeasurementsError(f"{figure} was not measured: nobody could name the images")
        return found

    def of_client(self, index: int, real: Real, figure: Figure) -> Spread | None:
        """One client's, one value for each seed."""
        return Quality(tuple((clients[index],) for clients in self.by_seed)).over_seeds(real, figure)

    def half_width(self, real: Real, figure: Figure) -> float | None:
        """Half of the interval over the draw of images, of one client and seed, in the mean over both."""
        found = [client.estimate(real, figure) for clients in self.by_seed for client in clients]
        widths = [(each.high - each.low) / 2 for each in found if each is not None]
        return fmean(widths) if widths else None

    def cells(self, real: Real) -> tuple[Cell, ...]:
        """All figures in the order of `COLUMNS`."""
        return tuple(self.over_seeds(real, figure) for figure in COLUMNS)


def judged(bench: Workbench, client: ClientData, generated: LabelledImages) -> ClientQuality:
    """Measures the images made for a client, with the labels that were asked for.

    Every model and seed is measured on the same draws, and on several: the draw of some sixty held-out images scatters more than
    trainings do, and would hide what differs between them.
    """
    against = [
        measure_sets(generated, real, bench.extractor, draws=DRAWS, bootstrap=HALF_SAMPLES)
        for real in (client.train, client.held_out)
    ]
    return ClientQuality(*against)


def real_floor(bench: Workbench) -> tuple[ClientQuality, ...]:
    """Every client's real images against one another, in sets as large as those of `judged`."""
    floors = []
    for client in bench.federation.clients:
        asked = LabelledImages(
            client.train.images[:1].repeat(bench.design.images, 0), bench.labels_for(client)
        )
        floors.append(
            ClientQuality(
                *(
                    floor_of(real, bench.extractor, comparable_size(asked, real))
                    for real in (client.train, client.held_out)
                )
            )
        )
    return tuple(floors)


def floor_cells(floor: Sequence[ClientQuality], real: Real) -> tuple[Cell, ...]:
    """The floor's figures, in the mean over clients, in the order of `COLUMNS`."""
    return tuple(_mean([client.estimate(real, figure) for client in floor]) for figure in COLUMNS)


def floor_note(floor: Sequence[ClientQuality], real: Real) -> str:
    """How many images were compared, without which no figure here means anything, and how far the floor itself scatters."""
    sizes = sorted({(client.train if real is Real.TRAIN else client.held_out).size for client in floor})
    many = f"{sizes[0]} images" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} images, by client,"
    ranges = [
        f"{COLUMNS[figure].name} {fixed(band.low, COLUMNS[figure].decimals)} to {fixed(band.high, COLUMNS[figure].decimals)}"
        for figure in (Figure.FID, Figure.KID)
        for band in (floor_band(floor, real, figure),)
    ]
    return f"Sets of {many} on either side. Real against real, the middle 95 % of the splits: {', '.join(ranges)}."


def floor_band(floor: Sequence[ClientQuality], real: Real, figure: Figure) -> Band:
    """The floor of a chart: the clients' intervals over the splits, in the mean over clients."""
    found = [each for client in floor if (each := client.estimate(real, figure)) is not None]
    return Band(
        f"real against real ({real})", fmean(each.low for each in found), fmean(each.high for each in found)
    )


def _mean(estimates: Sequence[Estimate | None]) -> float | None:
    values = [each.value for each in estimates if each is not None]
    return fmean(values) if len(values) == len(estimates) else None
