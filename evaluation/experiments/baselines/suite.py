"""CollaFuse Edge against its rivals: clients alone at three budgets, one model of all, other ways to cut a chain."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from evaluation.data.images import LabelledImages
from evaluation.experiments.baselines.account_report import account_finding, account_table
from evaluation.experiments.baselines.ideal_report import (
    ideal_chart,
    ideal_errors,
    ideal_finding,
    ideal_table,
)
from evaluation.experiments.baselines.lineup import (
    COLLAFUSE,
    CUT,
    DOUBLE,
    EQUAL_EPOCHS,
    ISOLATED,
    LINEUP,
    OFTEN,
    PATCHED,
    SELDOM,
    WHOLE,
)
from evaluation.experiments.baselines.rival import Rival, evaluations
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
    Column,
    Finding,
    Outcome,
    PictureRow,
    Pictures,
    Table,
)
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Baselines at equal budget"
PICTURES = 5
"""Images of each rival in the report."""


def trainings(bench: Workbench) -> list[Training]:
    """All networks of all rivals; what two of them share is named twice and trained once."""
    return [training for rival in LINEUP for training in rival.trainings(bench)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Makes and measures the images of every rival."""
    qualities, pictures = {}, []
    for done, rival in enumerate(LINEUP):
        progress(done, len(LINEUP), rival.name)
        qualities[rival.name], images = _quality(bench, rival)
        pictures.append(_pictured(rival.name, images))
    real = bench.federation.clients[0].held_out
    pictures.append(_pictured("held-out images", real))
    return _outcome(bench, qualities, real_floor(bench), tuple(pictures))


def findings(qualities: Mapping[str, Quality]) -> list[Finding]:
    """Every rival against CollaFuse Edge, by each figure; the patch against none; averaging often against seldom.

    The rivals of one group answer one question together, and share an error rate.  qualities: by the rivals' names.
    """
    found = []
    wanted = (
        (Figure.FID, Real.HELD_OUT),
        (Figure.FID, Real.TRAIN),
        (Figure.KID, Real.HELD_OUT),
        (Figure.AGREEMENT, Real.HELD_OUT),
    )
    for group, (figure, real) in product((ISOLATED, WHOLE, CUT), wanted):
        (ours, *others) = (_named(qualities, rival, figure, real) for rival in (COLLAFUSE, *group))
        if ours is not None:
            where = "" if figure is Figure.AGREEMENT else f"against {real}"
            found += against(COLUMNS[figure], [each for each in others if each], ours, where=where)
    for rival, reference, where in (
        (PATCHED, DOUBLE, "of the published hand-off"),
        (OFTEN, SELDOM, "of federated averaging"),
    ):
        first, second = (_named(qualities, each, Figure.FID, Real.HELD_OUT) for each in (rival, reference))
        if first is not None and second is not None:
            found += against(COLUMNS[Figure.FID], [first], second, where=where)
    return found


def _named(qualities: Mapping[str, Quality], rival: Rival, figure: Figure, real: Real) -> Named | None:
    """A figure under the rival's name; None where it could not be measured."""
    found = qualities[rival.name].over_seeds(real, figure)
    return None if found is None else Named(rival.name, found)


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
    every, few = ideal_errors(bench)
    return Outcome(
        suite="baselines",
        title=TITLE,
        question="Is a model that is cut between server and clients better or worse than what else the clients could do?",
        method=_method(bench),
        findings=(*findings(qualities), ideal_finding(every), account_finding(bench)),
        tables=(
            *(_table(qualities, floor, real) for real in (Real.HELD_OUT, Real.TRAIN)),
            account_table(bench),
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


def _method(bench: Workbench) -> str:
    design = bench.design
    everywhere = len(bench.federation.clients) * design.updates
    epochs = EQUAL_EPOCHS.account(bench).device_updates
    return (
        f"Equal for all: one optimiser, {design.batch_size} samples to an update, one course of the learning rate and "
        f"averaging of weights; every image takes {evaluations(bench)} network evaluations in all ({design.sampler}) and starts "
        f"from the same noise. Every server's network, and every network that makes images alone, is of base width "
        f"{design.width} and is trained for {design.updates} updates, but for two of the rivals below. A scheme that cuts the "
        f"chain (at c = {design.main_cut:g}) adds a small head on each device (base width {design.head_width}, "
        f"{design.head_updates} updates), and makes its last {design.head_steps} evaluations with it; all such schemes use the "
        f"same heads and the same one release of each image. What an equal budget is for a client alone can be read in three "
        f"ways. Equal updates: the {design.updates} on every device, {everywhere} in all. Equal epochs, as in the code of the "
        f"CollaFuse papers: as many passes over its own images as the server makes over everybody's, {epochs} updates in the "
        f"mean over clients. A device's budget: what the split asks of it in training, a network of the head's width and the "
        f"head's updates, spent on the whole chain. Federated averaging makes the {design.updates} updates on every device, "
        f"{everywhere} in all. {design.images} images for each client and seed, {len(design.seeds)} seeds, compared in the "
        f"features of {bench.extractor.name}."
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


_LIMITS = (
    (
        "One budget and one setting of the optimiser for all: a rival might gain more than this system from another one. "
        "Training is short, and what an equal budget gives by then is not what any scheme reaches in the end."
    ),
    (
        "Where clients hold different labels, a client alone learns its own labels only, and each network of all clients has to "
        "learn them all: with equal updates that favours training alone. Nobody is asked here for a label that it does not hold."
    ),
    (
        "A client alone for equal epochs, or on a device's budget, makes fewer updates or has a smaller network than this "
        "system's server. An advantage over it may be all due to the server's computing: that others' images teach a client "
        "something would have to show against equal updates."
    ),
    (
        "A client alone on a device's budget trains no more than the split asks of it, but makes all evaluations of an image "
        "with its network, where the split leaves the server's part to the server."
    ),
    (
        "Federated averaging: every client makes equally many local updates in a round, with AdamW whose state stays on the "
        "client; the paper has equally many epochs of gradient descent. All clients' batches "
        "together are as many times the server's as there are clients."
    ),
    (
        "A seed draws weights, batches, the noise of the releases and that of generation anew. The division of the data is the "
        "same for all seeds, so the spread says nothing of another one."
    ),
    (
        "Rivals are compared in three groups: clients alone, one whole model of all, other ways to cut the chain. Those of one "
        "group in one figure share an error rate of 5 %; groups and figures are several, so that a claim of one of them alone "
        "may be luck."
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
    (
        "Schemes differ in what leaves a device, and none of these figures says what that gives away. Of releases the attacks "
        "tell; of weights, which after few updates tell nearly a batch's gradient, nothing here does."
    ),
)
