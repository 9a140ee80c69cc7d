"""CollaFuse Edge against its rivals at one budget: isolated, central, federated averaging, two other ways to cut a chain."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.data.images import LabelledImages
from evaluation.experiments.baselines.ideal_report import (
    ideal_chart,
    ideal_errors,
    ideal_finding,
    ideal_table,
)
from evaluation.experiments.baselines.lineup import COLLAFUSE, RIVALS, Rival
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Quality,
    Real,
    floor_cells,
    floor_note,
    judged,
    real_floor,
)
from evaluation.measuring.verdicts import Named, against
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Better,
    Cell,
    Column,
    Finding,
    Outcome,
    PictureRow,
    Pictures,
    Table,
    Weight,
)
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Baselines at equal budget"
PICTURES = 5
"""Images of each rival in the report."""
ALL = (COLLAFUSE, *RIVALS)


def trainings(bench: Workbench) -> list[Training]:
    """All networks of all rivals; what two of them share is named twice and trained once."""
    return [training for rival in ALL for training in rival.trainings(bench)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Makes and measures the images of every rival."""
    qualities, pictures = {}, []
    for done, rival in enumerate(ALL):
        progress(done, len(ALL), rival.name)
        qualities[rival.name], images = _quality(bench, rival)
        pictures.append(_pictured(rival.name, images))
    real = bench.federation.clients[0].held_out
    pictures.append(_pictured("held-out images", real))
    return _outcome(bench, qualities, real_floor(bench), tuple(pictures))


def findings(qualities: Mapping[str, Quality]) -> list[Finding]:
    """Every rival against CollaFuse Edge, by each figure; and the patch against none.

    qualities: by the rivals' names.
    """
    found = []
    wanted = (
        (Figure.FID, Real.HELD_OUT),
        (Figure.FID, Real.TRAIN),
        (Figure.KID, Real.HELD_OUT),
        (Figure.AGREEMENT, Real.HELD_OUT),
    )
    for figure, real in wanted:
        figures = {name: quality.over_seeds(real, figure) for name, quality in qualities.items()}
        named = [Named(name, each) for name, each in figures.items() if each is not None]
        ours = [each for each in named if each.name == COLLAFUSE.name]
        others = [each for each in named if each.name != COLLAFUSE.name]
        for reference in ours:
            where = "" if figure is Figure.AGREEMENT else f"against {real}"
            found += against(COLUMNS[figure], others, reference, where=where)
    literal, patched = (
        Named(name, qualities[name].known(Real.HELD_OUT, Figure.FID))
        for name in ("double noising", "double noising, patched")
    )
    return found + against(COLUMNS[Figure.FID], [patched], literal, where="of the published hand-off")


def _quality(bench: Workbench, rival: Rival) -> tuple[Quality, LabelledImages]:
    """Of every seed and client; and the first seed's images for the first client."""
    first: LabelledImages | None = None
    by_seed = []
    for seed in bench.design.seeds:
        of_seed = []
        for client in bench.federation.clients:
            images = rival.make(bench, client, seed).as_images()
            first = first or images
            of_seed.append(judged(bench, client, images))
        by_seed.append(tuple(of_seed))
    assert first is not None  # a design has three seeds or more
    return Quality(tuple(by_seed)), first


def _pictured(name: str, images: LabelledImages) -> PictureRow:
    rows = np.argsort(images.labels, kind="stable")[
        np.linspace(0, len(images) - 1, PICTURES).round().astype(int)
    ]
    return PictureRow(name, tuple(png_data_uri(images.images[row]) for row in rows))


def _outcome(
    bench: Workbench,
    qualities: Mapping[str, Quality],
    floor: Sequence[ClientQuality],
    pictures: tuple[PictureRow, ...],
) -> Outcome:
    design, (every, few) = bench.design, ideal_errors(bench)
    return Outcome(
        suite="baselines",
        title=TITLE,
        question="Is a model that is cut between server and clients better or worse than what else the clients could do?",
        method=(
            f"Equal for all: every network that makes images alone, and every server's network, is of one shape (base width "
            f"{design.width}) and is trained for {design.updates} updates of {design.batch_size} samples by one optimiser, "
            f"course of the learning rate and averaging of weights; every image takes "
            f"{design.server_steps + design.head_steps} network evaluations in all ({design.sampler}) and starts from the same "
            f"noise. Not equal: a scheme that cuts the chain (at c = {design.main_cut:g}) adds a small head on each device "
            f"(base width {design.head_width}, {design.head_updates} updates), and makes its last {design.head_steps} "
            f"evaluations with it; all such schemes use the same heads and the same one release of each image. Clients that "
            f"train alone, or by federated averaging, make the {design.updates} updates on every device, "
            f"{len(bench.federation.clients) * design.updates} in all. {design.images} images for each client and seed, "
            f"{len(design.seeds)} seeds, compared in the features of {bench.extractor.name}."
        ),
        findings=(*findings(qualities), ideal_finding(every), _budget_finding(bench)),
        tables=(
            *(_table(qualities, floor, real) for real in (Real.HELD_OUT, Real.TRAIN)),
            _budget_table(bench),
            ideal_table(bench, every, few),
        ),
        charts=(ideal_chart(every),),
        pictures=(
            Pictures(
                f"Images for {bench.federation.clients[0].name}",
                ("",) * PICTURES,
                pictures,
                note="One label to a column, where there are enough; the first seed, not chosen.",
            ),
        ),
        limits=_LIMITS,
    )


def _table(qualities: Mapping[str, Quality], floor: Sequence[ClientQuality], real: Real) -> Table:
    rows = [(name, *quality.cells(real)) for name, quality in qualities.items()]
    width = qualities[COLLAFUSE.name].half_width(real, Figure.FID)
    return Table(
        f"Fidelity against the {real}",
        (Column("scheme"), *COLUMNS.values()),
        (*rows, ("real against real", *floor_cells(floor, real))),
        note=(
            "Means over clients, with the standard deviation over seeds; beside it, another draw of images would move the FID "
            f"of one client and seed by ± {width or 0.0:.1f} (95 %). {floor_note(floor, real)}"
        ),
    )


def _budget_table(bench: Workbench) -> Table:
    sides = ("a device", "the server")
    columns = (
        Column("scheme"),
        *(Column(f"updates, {side}", decimals=0) for side in sides),
        *(Column(f"samples seen, {side}", decimals=0) for side in sides),
        *(Column(f"parameters, {side}", decimals=0) for side in sides),
        *(Column(f"evaluations for an image, {side}", decimals=0) for side in sides),
        Column("sent by a device", "kB", Better.LESS, 0, 1e-3),
        Column("what leaves a device"),
    )
    rows: list[tuple[Cell, ...]] = []
    for rival in ALL:
        account = rival.account(bench)
        updates = (account.device_updates, account.server_updates)
        rows.append(
            (
                rival.name,
                *updates,
                *(count * bench.design.batch_size for count in updates),
                account.device_parameters,
                account.server_parameters,
                account.device_evaluations,
                account.server_evaluations,
                float(account.sent_bytes),
                account.leaves,
            )
        )
    return Table(
        "What each scheme takes",
        columns,
        tuple(rows),
        note="Counted, for one device in the mean over clients, in float32 and without compression; what a device receives, and "
        "images made later, are left out.",
    )


def _budget_finding(bench: Workbench) -> Finding:
    ours, averaging = COLLAFUSE.account(bench), RIVALS[2].account(bench)
    return Finding(
        f"To train, a device sends {ours.sent_bytes / 1e3:,.0f} kB and makes {ours.device_updates:,} updates of "
        f"{ours.device_parameters:,} parameters; with federated averaging it sends {averaging.sent_bytes / 1e3:,.0f} kB and "
        f"makes {averaging.device_updates:,} updates of {averaging.device_parameters:,}.",
        Weight.FACT,
    )


_LIMITS = (
    (
        "One budget and one setting of the optimiser for all: a rival might gain more than this system from another one, and "
        "federated averaging from another number of rounds."
    ),
    (
        "A client that trains alone spends as many updates on its own images as a server spends on everybody's; where clients "
        "hold different labels and training is short, that favours training alone."
    ),
    (
        "Federated averaging: every client makes equally many local updates in a round, with AdamW whose state stays on the "
        "client; the paper has equally many epochs of gradient descent."
    ),
    (
        "A seed draws weights, batches, the noise of the releases and that of generation anew. The division of the data is the "
        "same for all seeds, so the spread says nothing of another one."
    ),
    (
        "The rivals in one figure share an error rate of 5 %; the figures are several, so that a claim of one of them alone may "
        "be luck."
    ),
    (
        "Double noising: its server's estimate is bound to [-1, 1] as everybody's, although what it estimates are noisy releases "
        "that lie beyond; PFDM's has the wider bound. In the ideal networks above nothing is bound."
    ),
    (
        "Double noising: the published code releases each image anew in every epoch; here it has one release of each, as this "
        "system has, so that only the hand-off differs. With the patch the head starts at a step that it was never trained on, "
        "as in the published code."
    ),
    (
        "PFDM is implemented from descriptions of its two algorithms, not from the authors' code: schedule, samplers, step plan, "
        "labels and the bound on estimates are this evaluation's; its client's denoiser learns the steps only that it is used "
        "at; images are not clipped."
    ),
    "Schemes differ in what leaves a device, and none of these figures says what that gives away: see the attacks.",
)
