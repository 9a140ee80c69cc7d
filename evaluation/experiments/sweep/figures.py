"""The tables and charts of the cut sweep."""

from collections.abc import Callable, Sequence
from statistics import fmean

from evaluation.data.images import ClientData
from evaluation.experiments.sweep.disclosure import Controls
from evaluation.experiments.sweep.point import FIXED, PROPORTIONAL, CutPoint
from evaluation.measuring.cost import Bill
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Quality,
    Real,
    floor_band,
    floor_cells,
    floor_note,
)
from evaluation.metrics.spread import Spread
from evaluation.reporting.outcome import Band, Better, Chart, Column, Series, Table, series_of

CUT_LABEL = "c, the client's share of the chain"
_CUT = Column("cut")
_SHADE = "The shade is one standard deviation over seeds on both sides."


def fidelity_table(points: Sequence[CutPoint], floor: Sequence[ClientQuality], real: Real) -> Table:
    """All figures of fidelity over the cut, by the papers' plan."""
    width = fmean(point.proportional.half_width(real, Figure.FID) or 0.0 for point in points)
    rows = [(point.name, *point.proportional.cells(real)) for point in points]
    return Table(
        f"Fidelity against the {real}",
        (_CUT, *COLUMNS.values()),
        (*rows, ("real against real", *floor_cells(floor, real))),
        note=(
            f"Means over clients, {PROPORTIONAL}. The spread is over seeds; beside it, another draw of images would move the "
            f"FID of one client and seed by ± {width:.1f} (95 %). {floor_note(floor, real)}"
        ),
    )


def plans_table(points: Sequence[CutPoint]) -> Table:
    """One plan beside the other."""
    plans: tuple[tuple[str, Callable[[CutPoint], tuple[Bill, Bill]], Callable[[CutPoint], Quality]], ...] = (
        (PROPORTIONAL, lambda p: p.proportional_bills, lambda p: p.proportional),
        (FIXED, lambda p: p.fixed_bills, lambda p: p.fixed),
    )
    rows = [
        (
            point.name,
            words,
            bills(point)[0].evaluations,
            bills(point)[1].evaluations,
            quality(point).over_seeds(Real.HELD_OUT, Figure.FID),
            quality(point).over_seeds(Real.HELD_OUT, Figure.AGREEMENT),
        )
        for point in points
        if point.inner
        for words, bills, quality in plans
    ]
    counts = (Column("evaluations, server", decimals=0), Column("evaluations, device", decimals=0))
    columns = (_CUT, Column("plan"), *counts, COLUMNS[Figure.FID], COLUMNS[Figure.AGREEMENT])
    return Table("Two plans for the same chain, against held-out images", columns, tuple(rows))


def clients_table(points: Sequence[CutPoint], clients: Sequence[ClientData]) -> Table:
    """FID of every client by itself."""
    columns = [
        Column(f"{client.name}, {real}", "", Better.LESS, 2)
        for client in clients
        for real in (Real.HELD_OUT, Real.TRAIN)
    ]
    rows = [
        (
            point.name,
            *(
                point.proportional.of_client(index, real, Figure.FID)
                for index in range(len(clients))
                for real in (Real.HELD_OUT, Real.TRAIN)
            ),
        )
        for point in points
    ]
    sizes = ", ".join(f"{c.name} {len(c.train)} and {len(c.held_out)}" for c in clients)
    return Table(
        "FID of every client",
        (_CUT, *columns),
        tuple(rows),
        note=f"Clients differ in how many images they have to be compared with (training and held out: {sizes}), and FID "
        "depends on that: compare down the columns only.",
    )


def disclosure_table(points: Sequence[CutPoint]) -> Table:
    """What the server holds, over the cut."""
    columns = (
        _CUT,
        *(
            Column(name, better=Better.MORE, decimals=3)
            for name in (
                "releases: KID",
                "releases: MSE",
                "releases, rebuilt: MSE",
                "made by the server: KID",
                "made by the server: nearest MSE",
                "made by the server, rebuilt: nearest MSE",
            )
        ),
    )
    rows = [
        (
            point.name,
            *(point.released_spread(of) for of in ("kid", "mse", "rebuilt_mse")),
            *(point.generated_spread(of) for of in ("kid", "nearest_mse", "rebuilt_nearest_mse")),
        )
        for point in points
    ]
    return Table(
        "What the server holds at the cut, against the clean training images",
        columns,
        tuple(rows),
        note="More is less disclosed. Rebuilt: after the best linear reconstruction. What the server makes belongs to no "
        "image: it is held against the nearest one. At c = 1 the server holds nothing.",
    )


def image_cost_table(points: Sequence[CutPoint], energy: str) -> Table:
    """What an image costs each side, by both plans."""
    columns = (
        _CUT,
        Column("plan"),
        *(
            Column(f"{what}, {side}", unit, Better.LESS, decimals, scale)
            for what, unit, decimals, scale in (
                ("evaluations", "", 0, 1.0),
                ("operations", "MFLOP", 1, 1e-6),
                ("time", "ms", 2, 1e3),
                ("energy", "mJ", 2, 1e3),
            )
            for side in ("server", "device")
        ),
        Column("device's share of operations", "%", Better.LESS, 0, 100.0),
    )
    rows = [
        (point.name, words, *_image_cells(bills), point.device_share(bills))
        for point in points
        for words, bills in ((PROPORTIONAL, point.proportional_bills), (FIXED, point.fixed_bills))
        if point.inner or words == PROPORTIONAL
    ]
    return Table(
        "What an image costs",
        columns,
        tuple(rows),
        note=f"Time is of one core, measured for the network and multiplied by its evaluations. Energy is {energy}.",
    )


def training_cost_table(points: Sequence[CutPoint], energy: str) -> Table:
    """What training costs each side; inner cuts cost the same."""
    chosen = [points[0], next(point for point in points if point.inner), points[-1]]
    rows = [
        (
            "0 < c < 1" if point.inner else point.name,
            side,
            part.parameters,
            part.samples,
            float(part.training_flops),
            part.training_seconds,
            part.training_joules,
        )
        for point in chosen
        for side, part in zip(("server", "each device"), point.fixed_bills, strict=True)
        if part.samples
    ]
    columns = (
        _CUT,
        Column("side"),
        Column("parameters", decimals=0),
        Column("samples seen", decimals=0),
        Column("operations", "GFLOP", Better.LESS, 1, 1e-9),
        Column("time", "s", Better.LESS, 1),
        Column("energy", "J", Better.LESS, 1),
    )
    note = f"Time is of one core, measured for one update and multiplied by their number. Energy is {energy}."
    return Table("What training costs", columns, tuple(rows), note=note)


def main_chart(points: Sequence[CutPoint]) -> Chart:
    """Fidelity, disclosure and the client's computing in one, each as a share of its largest value."""
    fid = [(p.cut_ratio, p.proportional.known(Real.HELD_OUT, Figure.FID).mean) for p in points]
    kid = [(p.cut_ratio, each.mean) for p in points if (each := p.released_spread("kid")) is not None]
    share = [(p.cut_ratio, p.device_share(p.proportional_bills)) for p in points]
    return Chart(
        "Fidelity, disclosure and the device's computing over the cut",
        CUT_LABEL,
        "share of the largest value",
        (
            _relative("FID of finished images (less is better)", fid),
            _relative("KID of releases (more is less disclosed)", kid),
            _relative("device's share of an image's operations", share),
        ),
        note=f"Means over seeds and clients, {PROPORTIONAL}; the charts below have the values and their spread.",
    )


def fidelity_charts(points: Sequence[CutPoint], floor: Sequence[ClientQuality]) -> tuple[Chart, ...]:
    """FID over the cut, against held-out images by both plans, and against training images."""
    cuts = tuple(point.cut_ratio for point in points)
    held = [
        series_of(words, cuts, tuple(quality.known(Real.HELD_OUT, Figure.FID) for quality in qualities))
        for words, qualities in (
            (PROPORTIONAL, [point.proportional for point in points]),
            (FIXED, [point.fixed for point in points]),
        )
    ]
    train = series_of(PROPORTIONAL, cuts, tuple(p.proportional.known(Real.TRAIN, Figure.FID) for p in points))
    return tuple(
        Chart(
            f"FID against {real}",
            CUT_LABEL,
            "FID",
            tuple(lines),
            (floor_band(floor, real, Figure.FID),),
            note=_SHADE,
        )
        for real, lines in ((Real.HELD_OUT, held), (Real.TRAIN, [train]))
    )


def disclosure_charts(points: Sequence[CutPoint], controls: Sequence[Controls]) -> tuple[Chart, ...]:
    """KID and errors of what the server holds, over the cut."""
    kids = (
        _over_cuts("releases", points, lambda point: point.released_spread("kid")),
        _over_cuts("made by the server", points, lambda point: point.generated_spread("kid")),
    )
    errors = (
        _over_cuts("releases", points, lambda point: point.released_spread("mse")),
        _over_cuts("releases, rebuilt", points, lambda point: point.released_spread("rebuilt_mse")),
        _over_cuts(
            "made by the server, rebuilt", points, lambda point: point.generated_spread("rebuilt_nearest_mse")
        ),
    )
    bands = (
        _level("blind guess", [each.blind_mse for each in controls]),
        _level("a held-out image, nearest", [each.nearest_held_out_mse for each in controls]),
    )
    return (
        Chart("KID at the cut against clean images", CUT_LABEL, "KID", kids, note=_SHADE),
        Chart(
            "Errors at the cut against clean images",
            CUT_LABEL,
            "mean squared error",
            errors,
            bands,
            note=f"{_SHADE} Bands are from the least to the largest of the clients.",
        ),
    )


def share_chart(points: Sequence[CutPoint]) -> Chart:
    """The device's share of operations, which is counted and has no spread."""
    cuts = tuple(point.cut_ratio for point in points)
    lines = (
        (f"an image, {PROPORTIONAL}", [point.device_share(point.proportional_bills) for point in points]),
        (f"an image, {FIXED}", [point.device_share(point.fixed_bills) for point in points]),
        ("training, one device", [point.device_training_share() for point in points]),
    )
    series = tuple(Series(words, cuts, tuple(100 * share for share in shares)) for words, shares in lines)
    return Chart("The device's share of computing", CUT_LABEL, "share of operations, %", series)


def _image_cells(bills: tuple[Bill, Bill]) -> tuple[int | float | Spread, ...]:
    server, device = bills
    return (
        server.evaluations if server.parameters else 0,
        device.evaluations if device.parameters else 0,
        float(server.image_flops),
        float(device.image_flops),
        server.image_seconds,
        device.image_seconds,
        server.image_joules,
        device.image_joules,
    )


def _relative(name: str, values: Sequence[tuple[float, float]]) -> Series:
    largest = max(abs(value) for _, value in values) or 1.0
    return Series(name, tuple(x for x, _ in values), tuple(value / largest for _, value in values))


def _over_cuts(name: str, points: Sequence[CutPoint], of: Callable[[CutPoint], Spread | None]) -> Series:
    known = [(point.cut_ratio, figure) for point in points if (figure := of(point)) is not None]
    return series_of(name, tuple(cut for cut, _ in known), tuple(figure for _, figure in known))


def _level(name: str, values: Sequence[float]) -> Band:
    return Band(name, min(values), max(values))
