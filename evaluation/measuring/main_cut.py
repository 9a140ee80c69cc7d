"""Backbones that differ in what they were trained on, judged by the images they make at the main cut with the same heads."""

from collections.abc import Callable

from evaluation.measuring.chain import head_at
from evaluation.measuring.quality import ClientQuality, Quality, judged
from evaluation.running.trainings import Training
from evaluation.running.workbench import Workbench


def heads(bench: Workbench) -> list[Training]:
    """Every client's head of every seed at the main cut."""
    design = bench.design
    made = [
        head_at(design, client, design.main_cut, seed)
        for client in bench.federation.clients
        for seed in design.seeds
    ]
    return [head for head in made if head is not None]


def quality_with(bench: Workbench, backbone_of: Callable[[int], Training]) -> Quality:
    """What the images are worth that the backbones make with the clients' heads.

    backbone_of: seed → the training of its backbone.  Every backbone starts from the same noise.
    """
    return Quality(tuple(_of_seed(bench, backbone_of(seed), seed) for seed in bench.design.seeds))


def _of_seed(bench: Workbench, training: Training, seed: int) -> tuple[ClientQuality, ...]:
    backbone, cut_ratio = bench.network(training), bench.design.main_cut
    found = []
    for client in bench.federation.clients:
        head = head_at(bench.design, client, cut_ratio, seed)
        network = None if head is None else bench.network(head)
        made = bench.generated(client, backbone, network, cut_ratio, seed).as_images()
        found.append(judged(bench, client, made))
    return tuple(found)
