"""What a refined head makes of the server's latents: of those for images it may know, and of those for new ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.network import UNet
from evaluation.data.images import ClientData, LabelledImages
from evaluation.experiments.refinement.head import RefinedHead
from evaluation.experiments.refinement.latents import answered
from evaluation.measuring.chain import networks_at
from evaluation.measuring.quality import ClientQuality, judged
from evaluation.metrics.disclosure import squared_errors
from evaluation.running.generation import BATCH, StepPlan, generate, run_part
from evaluation.running.trainings import Budget
from evaluation.running.workbench import Workbench

ANSWERED = 100
"""Images of a client, at most, whose latents a head is asked about."""


@dataclass(frozen=True)
class Variant:
    """A head. reach: as in `RefinedHead`, 0 for the control; None for the head before."""

    name: str
    reach: float | None


BEFORE = Variant("head before", None)
CONTROL = Variant("plain loss", 0.0)
NEAR = Variant("latents from near the cut", 0.25)
FAR = Variant("latents from all of the plan", 1.0)
VARIANTS = (BEFORE, CONTROL, NEAR, FAR)
REFINED = (NEAR, FAR)


@dataclass(frozen=True)
class Answers:
    """Mean squared error of x̂_0 on latents of one reach, by the control and by the head that was refined on such latents.

    train: images that the heads have learned from;  held_out: images that they have not.
    """

    train: Mapping[Variant, float]
    held_out: Mapping[Variant, float]


@dataclass(frozen=True, eq=False)
class ClientRun:
    """One client with one seed.

    quality, contrast, shown: by head and number of its evaluations; contrast is the mean standard deviation within an image over
    that of real ones, shown the first images, (n, C, H, W).  answers: by the reach that the latents are of.
    """

    quality: Mapping[tuple[Variant, int], ClientQuality]
    contrast: Mapping[tuple[Variant, int], float]
    shown: Mapping[tuple[Variant, int], NDArray[np.float32]]
    answers: Mapping[Variant, Answers]


def head_evaluations(bench: Workbench) -> tuple[int, ...]:
    """With how many evaluations a head finishes: as many as the design gives it, two, and one."""
    return tuple(sorted({1, 2, bench.design.head_steps}, reverse=True))


def refined_head(bench: Workbench, client: str, reach: float, seed: int) -> RefinedHead:
    """The training of a head at the design's main cut."""
    design = bench.design
    return RefinedHead(
        client, design.main_cut, Budget.backbone(design), Budget.head(design), bench.steps(), reach, seed
    )


def run_client(bench: Workbench, client: ClientData, seed: int, *, shown: int = 4) -> ClientRun:
    """Trains the heads on if that is not done yet, generates with each, and asks each about latents."""
    cut_ratio = bench.design.main_cut
    backbone, before = networks_at(bench, client, cut_ratio, seed)
    assert backbone is not None
    assert before is not None
    heads = {BEFORE: before} | {
        variant: _grown(bench, client.name, variant.reach, seed, backbone, before)
        for variant in VARIANTS
        if variant.reach is not None
    }
    labels = bench.labels_for(client)
    at_cut = generate(
        bench.schedule,
        backbone,
        None,
        bench.t_cut(cut_ratio),
        labels,
        bench.steps(),
        shape=bench.federation.shape,
        seed=seed,
    ).at_cut
    finished = {
        (variant, count): _finished(bench, head, at_cut, labels, count, seed)
        for variant, head in heads.items()
        for count in head_evaluations(bench)
    }
    real = client.everything.images.std(axis=(1, 2, 3)).mean()
    return ClientRun(
        {key: judged(bench, client, images) for key, images in finished.items()},
        {key: float(each.images.std(axis=(1, 2, 3)).mean() / real) for key, each in finished.items()},
        {key: each.images[:shown] for key, each in finished.items()},
        {variant: _answers(bench, client, variant, seed, backbone, heads) for variant in REFINED},
    )


def _grown(bench: Workbench, client: str, reach: float, seed: int, backbone: UNet, before: UNet) -> UNet:
    training = refined_head(bench, client, reach, seed)
    return bench.networks.kept(
        training, lambda: training.grown(backbone, before, bench.federation, lambda *_: None)
    ).network


def _finished(
    bench: Workbench,
    head: UNet,
    at_cut: NDArray[np.float32],
    labels: NDArray[np.int32],
    evaluations: int,
    seed: int,
) -> LabelledImages:
    t_cut, design = bench.t_cut(bench.design.main_cut), bench.design
    steps = StepPlan(design.server_steps, evaluations, design.sampler)
    parts = [
        run_part(
            bench.schedule,
            head,
            torch.from_numpy(at_cut[rows]),
            torch.from_numpy(labels[rows].astype(np.int64)),
            (t_cut, 0, evaluations),
            steps,
            seed,
            rows,
        ).numpy()
        for rows in np.array_split(np.arange(len(labels)), max(1, -(-len(labels) // BATCH)))
    ]
    return LabelledImages(np.clip(np.concatenate(parts), -1.0, 1.0), labels)


def _answers(
    bench: Workbench,
    client: ClientData,
    variant: Variant,
    seed: int,
    backbone: UNet,
    heads: Mapping[Variant, UNet],
) -> Answers:
    """How the control and the head refined on such latents answer to them."""
    assert variant.reach is not None
    training = refined_head(bench, client.name, variant.reach, seed)
    errors: list[dict[Variant, float]] = []
    for data in (client.train, client.held_out):
        few = data.take(np.arange(min(ANSWERED, len(data))))
        latents = training.latents(backbone, bench.federation, few)
        errors.append(
            {
                asked: fmean(
                    squared_errors(
                        few.images,
                        answered(
                            heads[asked], bench.schedule, x_c, few.labels, bench.t_cut(training.cut_ratio)
                        ),
                    ).mean()
                    for x_c in latents
                )
                for asked in (CONTROL, variant)
            }
        )
    return Answers(*errors)
