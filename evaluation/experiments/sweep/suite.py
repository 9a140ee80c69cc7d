"""The papers' main figure: fidelity, disclosure and the client's share of computing over the cut.

Every image is made twice, by plans of equal length: once with the evaluations divided as the cut divides the chain, which is
the papers' plan, and once with the design's fixed number on either side, which this system allows (see `two_knobs`).
"""

from dataclasses import dataclass

import numpy as np

from diffusion.network import UNetConfig
from evaluation.data.images import ClientData, LabelledImages
from evaluation.experiments.sweep import figures
from evaluation.experiments.sweep.alone import Alone, alone_over_seeds, judged_alone
from evaluation.experiments.sweep.alone_report import alone_chart, alone_findings, alone_table
from evaluation.experiments.sweep.disclosure import (
    Attacker,
    Controls,
    GeneratedDisclosure,
    ReleasedDisclosure,
    attacker_of,
)
from evaluation.experiments.sweep.findings import (
    control_findings,
    cost_findings,
    disclosure_findings,
    fidelity_findings,
)
from evaluation.experiments.sweep.point import PROPORTIONAL, CutPoint, SideCosts
from evaluation.measuring.chain import networks_at, proportional_steps, trainings_at
from evaluation.measuring.cost import CORE_WATTS, Bill, NetworkCost, bill, energy_meter, network_cost
from evaluation.measuring.quality import ClientQuality, Quality, Real, judged, real_floor
from evaluation.reporting.gallery import png_data_uri
from evaluation.reporting.outcome import Outcome, PictureRow, Pictures
from evaluation.running.fitting import unet_config
from evaluation.running.generation import Generated, StepPlan
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Cut sweep"
PICTURES = 40
"""Images in the report at most."""


def trainings(bench: Workbench) -> list[Training]:
    """Backbones and heads of every cut."""
    return [training for cut_ratio in bench.design.cuts for training in trainings_at(bench, cut_ratio)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Measures every cut, for all clients and seeds."""
    costs = side_costs(bench)
    attackers = [
        attacker_of(bench.federation, client, bench.extractor) for client in bench.federation.clients
    ]
    points = []
    for done, cut_ratio in enumerate(bench.design.cuts):
        progress(done, len(bench.design.cuts), f"cut {cut_ratio:g}")
        points.append(_point(bench, cut_ratio, attackers, costs))
    main_alpha_bar = float(bench.schedule.alpha_bar[bench.t_cut(bench.design.main_cut)])
    controls = tuple(attacker.controls(main_alpha_bar) for attacker in attackers)
    return _outcome(bench, tuple(points), controls, costs)


def side_costs(bench: Workbench) -> SideCosts:
    """A backbone and a head, measured once: their shapes are those of every cut."""
    meter, design = energy_meter(), bench.design

    def of_width(width: int) -> NetworkCost:
        config: UNetConfig = unet_config(bench.federation.shape, width, bench.federation.num_classes)
        return network_cost(config, meter, batch_size=design.batch_size)

    return SideCosts(of_width(design.width), of_width(design.head_width))


@dataclass(frozen=True, eq=False)
class _Made:
    """What one client and seed gives at one cut."""

    proportional: ClientQuality
    fixed: ClientQuality
    alone: dict[Alone, ClientQuality]
    released: ReleasedDisclosure | None
    generated: GeneratedDisclosure | None
    images: Generated


def _point(bench: Workbench, cut_ratio: float, attackers: list[Attacker], costs: SideCosts) -> CutPoint:
    held = [released_to_server(bench, attacker.client, cut_ratio) for attacker in attackers]
    made = [
        [
            _made(bench, attacker, cut_ratio, seed, None if x_c is None else x_c[index])
            for attacker, x_c in zip(attackers, held, strict=True)
        ]
        for index, seed in enumerate(bench.design.seeds)
    ]
    plans = (proportional_steps(bench.design, cut_ratio), bench.steps_at(cut_ratio))
    return CutPoint(
        cut_ratio,
        Quality(tuple(tuple(each.proportional for each in of_seed) for of_seed in made)),
        Quality(tuple(tuple(each.fixed for each in of_seed) for of_seed in made)),
        alone_over_seeds([[each.alone for each in of_seed] for of_seed in made]),
        tuple(tuple(each.released for each in of_seed) for of_seed in made),
        tuple(tuple(each.generated for each in of_seed) for of_seed in made),
        _bills(bench, cut_ratio, plans[0], costs),
        _bills(bench, cut_ratio, plans[1], costs),
        _pictured(bench, cut_ratio, made[0][0].images),
    )


def released_to_server(
    bench: Workbench, client: ClientData, cut_ratio: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """What each seed's backbone learns from: one release of every training image for each seed, (seeds, N, C, H, W).

    None at 1, where nothing leaves a device.

    At 0 a device refuses to release; the server of "everything on the server" has the clean images themselves.
    """
    if cut_ratio == 1:
        return None
    if cut_ratio == 0:
        return np.repeat(client.train.images[None], len(bench.design.seeds), axis=0)
    return np.concatenate(
        [bench.federation.released(client, cut_ratio, seed=seed) for seed in bench.design.seeds]
    )


def _made(
    bench: Workbench,
    attacker: Attacker,
    cut_ratio: float,
    seed: int,
    x_c: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None,
) -> _Made:
    client = attacker.client
    backbone, head = networks_at(bench, client, cut_ratio, seed)
    alpha_bar = float(bench.schedule.alpha_bar[bench.t_cut(cut_ratio)])
    papers = proportional_steps(bench.design, cut_ratio)
    images = bench.generated(client, backbone, head, cut_ratio, seed, papers)
    proportional = judged(bench, client, images.as_images())
    fixed = proportional
    if papers != bench.steps_at(cut_ratio):
        again = bench.generated(client, backbone, head, cut_ratio, seed)
        fixed = judged(bench, client, again.as_images())
    at_cut = LabelledImages(images.at_cut, images.labels)
    return _Made(
        proportional,
        fixed,
        judged_alone(bench, client, cut_ratio, seed, (backbone, head)),
        None if x_c is None else attacker.released(x_c, alpha_bar, seed),
        None if backbone is None else attacker.generated(at_cut, alpha_bar, seed),
        images,
    )


def _bills(bench: Workbench, cut_ratio: float, plan: StepPlan, costs: SideCosts) -> tuple[Bill, Bill]:
    """The server's and one device's."""
    design = bench.design
    head = costs.backbone if cut_ratio == 1 else costs.head
    updates = design.updates if cut_ratio == 1 else design.head_updates
    return (
        bill(
            None if cut_ratio == 1 else costs.backbone,
            evaluations=plan.server_steps,
            samples=design.updates * design.batch_size,
        ),
        bill(
            None if cut_ratio == 0 else head,
            evaluations=plan.head_steps,
            samples=updates * design.batch_size,
        ),
    )


def _pictured(bench: Workbench, cut_ratio: float, made: Generated) -> PictureRow:
    """The first client's first seed: a few images, each at the cut and finished."""
    pairs = pictured_pairs(bench)
    rows = np.linspace(0, len(made.labels) - 1, pairs).round().astype(int)
    images = tuple(png_data_uri(part[row]) for row in rows for part in (made.at_cut, made.finished))
    return PictureRow(f"c = {cut_ratio:g}", images)


def pictured_pairs(bench: Workbench) -> int:
    """How many pairs of images a row of the report has."""
    return max(1, min(4, PICTURES // (2 * len(bench.design.cuts))))


def _outcome(
    bench: Workbench, points: tuple[CutPoint, ...], controls: tuple[Controls, ...], costs: SideCosts
) -> Outcome:
    clients, floor = bench.federation.clients, real_floor(bench)
    energy = f"{costs.backbone.energy} {_ENERGY[costs.backbone.energy]}"
    return Outcome(
        suite="sweep",
        title=TITLE,
        question="How do fidelity, disclosure and the client's share of computing change with the cut?",
        method=_method(bench),
        findings=(
            *control_findings(controls),
            *fidelity_findings(points),
            *alone_findings(points),
            *disclosure_findings(points, controls),
            *cost_findings(points, costs),
        ),
        tables=(
            *(figures.fidelity_table(points, floor, real) for real in (Real.HELD_OUT, Real.TRAIN)),
            *(alone_table(points, real) for real in (Real.HELD_OUT, Real.TRAIN)),
            figures.plans_table(points),
            figures.clients_table(points, clients),
            figures.disclosure_table(points),
            figures.image_cost_table(points, energy),
            figures.training_cost_table(points, energy),
        ),
        charts=(
            figures.main_chart(points),
            *figures.fidelity_charts(points, floor),
            alone_chart(points, floor),
            *figures.disclosure_charts(points, controls),
            figures.share_chart(points),
        ),
        pictures=(
            Pictures(
                f"Images for {clients[0].name}",
                ("at the cut", "finished") * pictured_pairs(bench),
                tuple(point.pictured for point in points),
                note=f"The same noise and labels at every cut, {PROPORTIONAL}. At c = 0 the server's images are finished, "
                "at c = 1 it makes none and the device starts from noise.",
            ),
        ),
        limits=_LIMITS,
    )


def _method(bench: Workbench) -> str:
    design, clients = bench.design, bench.federation.clients
    whose = f"all {len(clients)} clients" if len(clients) > 1 else "the one client"
    return (
        f"At every cut a backbone is trained on one release of each training image of {whose} "
        f"({design.updates} updates of {design.batch_size}), and a head for every client ({design.head_updates} updates), "
        f"with {len(design.seeds)} seeds. At c = 0 the server has the clean images; at c = 1 each client trains a whole model "
        f"alone, as large and as long as a backbone. For each client and seed {design.images} images are made with "
        f"{design.server_steps + design.head_steps} network evaluations in all ({design.sampler}) and compared in the "
        f"features of {bench.extractor.name}. Figures are means over clients, one value for each seed. Either side alone, at "
        "inner cuts: the same network is run from noise at T to 0, although the server's never learned the steps up to the cut, "
        "nor a device's those above it; and it keeps to the steps it learned, the server by taking its last estimate x̂_0 for "
        "the image, a device by taking noise for the latent at the cut. Each time with as many evaluations in all."
    )


_ENERGY = {
    "measured": "of the whole processor, with all that it did beside, such as other experiments of this run",
    "estimated": f"at {CORE_WATTS:g} W for a busy core",
}
_LIMITS = (
    (
        "All inner cuts against one end share an error rate of 5 %, but there are several such groups: read them as a curve, "
        "and one cut that stands out from its neighbours as luck."
    ),
    (
        "A head has its own, smaller network and budget than a backbone, and c = 1 has the larger ones: what a cut gains or "
        "loses is meant with these."
    ),
    (
        "At c = 1 a device spends on its own images as many updates as the server does on everybody's at the other cuts; where "
        "clients hold different labels and training is short, that favours c = 1."
    ),
    (
        "A seed draws weights, batches, the noise of the releases and that of generation anew. The division of the data is the "
        "same for all seeds, so the spread says nothing of another one."
    ),
    (
        "Either side alone has the network that it trained for the split. A device that meant to do without the server would "
        "train for that, which is c = 1; a server with images of its own could learn to finish, which is the attacks' learned "
        "reconstruction."
    ),
    "The reconstruction is linear. The experiment on attacks reconstructs with more.",
    "Time and energy are of this machine and of networks in batches, without transport between the sides.",
)
