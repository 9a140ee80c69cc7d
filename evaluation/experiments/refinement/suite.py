"""Whether a head does better that was tuned on what the server really hands it, as in the papers' training loop."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from evaluation.experiments.refinement.latents import evaluations_left
from evaluation.experiments.refinement.measures import (
    BEFORE,
    CONTROL,
    REFINED,
    VARIANTS,
    Answers,
    ClientRun,
    Variant,
    head_evaluations,
    refined_head,
    run_client,
)
from evaluation.measuring.main_cut import heads
from evaluation.measuring.quality import (
    COLUMNS,
    ClientQuality,
    Figure,
    Quality,
    Real,
    floor_band,
    floor_cells,
    floor_note,
    real_floor,
)
from evaluation.measuring.verdicts import Named, against
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import (
    Better,
    Chart,
    Column,
    Finding,
    Outcome,
    PictureRow,
    Pictures,
    Table,
    Weight,
    series_of,
)
from evaluation.running.trainings import BackboneTraining, Budget, Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Hand-off refinement"
Runs = Sequence[Sequence[ClientRun]]
"""For every seed, every client in the federation's order."""
_ERROR = Column("error of x̂_0", "", Better.LESS, 4)
_LIMITS = (
    "The papers do not say how far from the cut the server starts for the client's own images; two choices are measured.",
    "A loss that compares distributions and not single images would not teach blurred answers; it is not the papers'.",
)


def trainings(bench: Workbench) -> list[Training]:
    """The networks that heads grow from; the heads themselves are trained on while they are measured, and kept."""
    design = bench.design
    budget = Budget.backbone(design)
    return [*(BackboneTraining(design.main_cut, budget, seed) for seed in design.seeds), *heads(bench)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Trains the heads on, and holds them against each other at every number of evaluations."""
    clients, seeds = bench.federation.clients, bench.design.seeds
    runs: list[list[ClientRun]] = []
    for index, seed in enumerate(seeds):
        runs.append([])
        for number, client in enumerate(clients):
            done = index * len(clients) + number
            progress(done, len(seeds) * len(clients), f"{client.name}, seed {seed}")
            runs[-1].append(run_client(bench, client, seed))
    floor = real_floor(bench)
    counts = head_evaluations(bench)
    return Outcome(
        suite="refinement",
        title=TITLE,
        question=(
            "Steps 4 to 6 of the papers' training loop hand the client what the server denoised of its own images, for its head "
            "to learn from. Does that help, with all of the head's evaluations and with few?"
        ),
        method=_method(bench),
        findings=(
            *(finding_on_learning(variant, _answers(runs, variant)) for variant in REFINED),
            *(
                finding
                for variant in REFINED
                for finding in findings_on_new_images(variant, _answers(runs, variant))
            ),
            *(
                finding
                for count in counts
                for finding in findings_on_fidelity(_qualities(runs, count), count)
            ),
        ),
        tables=(*(_fidelity_table(runs, counts, floor, real) for real in Real), _answer_table(runs)),
        charts=(_chart(runs, counts, floor),),
        pictures=(_pictures(runs, counts),),
        limits=_LIMITS,
    )


def finding_on_learning(variant: Variant, answers: Sequence[Answers]) -> Finding:
    """Control: on latents of images it has learned from, the refined head errs less than the control, with every seed."""
    errors = [(each.train[variant], each.train[CONTROL]) for each in answers]
    holds = all(refined < plain for refined, plain in errors)
    means = [fmean(pair[i] for pair in errors) for i in (0, 1)]
    return Finding(
        f"On its training images' {variant.name}, the head that was refined on them errs by {means[0]:.4f}, the one that was not "
        f"by {means[1]:.4f}.",
        Weight.CONTROL if holds else Weight.FAILED_CONTROL,
    )


def findings_on_new_images(variant: Variant, answers: Sequence[Answers]) -> list[Finding]:
    """Whether it errs less on the latents of held-out images, too."""
    refined, plain = (
        Named(name.name, spread(each.held_out[name] for each in answers)) for name in (variant, CONTROL)
    )
    return against(_ERROR, [refined], plain, where=f"on held-out images' {variant.name}")


def findings_on_fidelity(qualities: Mapping[Variant, Quality], evaluations: int) -> list[Finding]:
    """The refined heads against the control, which had as many updates, on held-out images.

    Precision and recall beside FID: answers that are blurred towards the middle gain the one and lose the other.
    """
    return [
        finding
        for figure in (Figure.FID, Figure.PRECISION, Figure.RECALL)
        for finding in against(
            COLUMNS[figure],
            [Named(each.name, qualities[each].known(Real.HELD_OUT, figure)) for each in REFINED],
            Named(CONTROL.name, qualities[CONTROL].known(Real.HELD_OUT, figure)),
            where=f"against {Real.HELD_OUT}, {evaluations} head evaluation{'' if evaluations == 1 else 's'}",
        )
    ]


def _method(bench: Workbench) -> str:
    design = bench.design
    some = refined_head(bench, "", REFINED[0].reach or 0.0, 0)
    near, far = (", ".join(map(str, evaluations_left(design.server_steps, v.reach or 0.0))) for v in REFINED)
    return (
        f"At cut {design.main_cut:g} every head is trained on by {some.total_updates} updates, three times over: on the plain "
        f"loss alone (the control), and with half of every batch replaced by the server's latents. For these the server noises "
        f"the release that it has of each image to a step of its plan and denoises it to the cut, with the last {near} of the "
        f"plan's {design.server_steps} evaluations (near the cut), or the last {far} (all of the plan). The client regresses "
        "its head at the cut on the noise that the latents would have to hold for its own image to come out, which is the error "
        "of x̂_0 weighted by the signal-to-noise ratio. It assumes that the latents tell of the image what a release does; they "
        "tell less, the further from the cut the server started, so the best answer is blurred. All heads then finish the same "
        "latents."
    )


def _answers(runs: Runs, variant: Variant) -> list[Answers]:
    """The mean over clients, for each seed."""
    found = []
    for clients in runs:
        each = [run.answers[variant] for run in clients]
        found.append(
            Answers(
                {name: fmean(one.train[name] for one in each) for name in (CONTROL, variant)},
                {name: fmean(one.held_out[name] for one in each) for name in (CONTROL, variant)},
            )
        )
    return found


def _qualities(runs: Runs, evaluations: int) -> dict[Variant, Quality]:
    return {
        variant: Quality(
            tuple(tuple(run.quality[variant, evaluations] for run in clients) for clients in runs)
        )
        for variant in VARIANTS
    }


def _contrast(runs: Runs, variant: Variant, evaluations: int) -> Spread:
    return spread(fmean(run.contrast[variant, evaluations] for run in clients) for clients in runs)


def _fidelity_table(runs: Runs, counts: Sequence[int], floor: Sequence[ClientQuality], real: Real) -> Table:
    rows = [
        (variant.name, count, *quality.cells(real), _contrast(runs, variant, count))
        for count in counts
        for variant, quality in _qualities(runs, count).items()
    ]
    return Table(
        f"Fidelity against {real}",
        (
            Column("head trained on with"),
            Column("head evaluations", "", Better.NEITHER, 0),
            *COLUMNS.values(),
            Column("contrast", "%", Better.NEITHER, 0, 100.0),
        ),
        (*rows, ("real against real", None, *floor_cells(floor, real), 1.0)),
        "Means over clients, with the standard deviation over seeds. Contrast: the mean standard deviation within an image, over "
        f"that of real images; a blurred answer lowers it. {floor_note(floor, real)}",
    )


def _answer_table(runs: Runs) -> Table:
    rows = tuple(
        (
            variant.name,
            asked.name,
            spread(each.train[asked] for each in _answers(runs, variant)),
            spread(each.held_out[asked] for each in _answers(runs, variant)),
        )
        for variant in REFINED
        for asked in (CONTROL, variant)
    )
    return Table(
        "What a head answers to the server's latents",
        (
            Column("latents"),
            Column("head trained on with"),
            Column("error, training images", "", Better.LESS, 4),
            Column("error, held-out images", "", Better.LESS, 4),
        ),
        rows,
        "Mean squared error of x̂_0 at the cut against the image that the server started from; means over clients, with the "
        "standard deviation over seeds.",
    )


def _chart(runs: Runs, counts: Sequence[int], floor: Sequence[ClientQuality]) -> Chart:
    ascending = sorted(counts)
    return Chart(
        "Fidelity over the head's evaluations",
        "head evaluations",
        f"FID against {Real.HELD_OUT}",
        tuple(
            series_of(
                variant.name,
                tuple(map(float, ascending)),
                tuple(
                    _qualities(runs, count)[variant].known(Real.HELD_OUT, Figure.FID) for count in ascending
                ),
            )
            for variant in VARIANTS
        ),
        (floor_band(floor, Real.HELD_OUT, Figure.FID),),
        note="One standard deviation over seeds.",
    )


def _pictures(runs: Runs, counts: Sequence[int]) -> Pictures:
    """The first client's first images of the first seed, with all evaluations and with one."""
    first = runs[0][0]
    rows = tuple(
        PictureRow(
            f"{variant.name}, {count} evaluation{'' if count == 1 else 's'}",
            tuple(png_data_uri(image) for image in first.shown[variant, count]),
        )
        for count in dict.fromkeys((counts[0], counts[-1]))
        for variant in VARIANTS
    )
    shown = len(first.shown[BEFORE, counts[0]])
    return Pictures("The same latents, finished", tuple(str(index + 1) for index in range(shown)), rows)
