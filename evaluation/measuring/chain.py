"""The networks of one cut: which a server and its clients train there, and which of them makes an image."""

from diffusion.network import UNet
from evaluation.data.images import ClientData
from evaluation.running.design import Design
from evaluation.running.generation import StepPlan
from evaluation.running.trainings import BackboneTraining, Budget, LocalTraining
from evaluation.running.workbench import Workbench


def backbone_at(design: Design, cut_ratio: float, seed: int) -> BackboneTraining | None:
    """The server's network; None where it owns no step."""
    return None if cut_ratio == 1 else BackboneTraining(cut_ratio, Budget.backbone(design), seed)


def head_at(design: Design, client: ClientData, cut_ratio: float, seed: int) -> LocalTraining | None:
    """A client's network: none at 0, a head between, and at 1 a whole model as large and as long trained as a backbone."""
    if cut_ratio == 0:
        return None
    budget = Budget.backbone(design) if cut_ratio == 1 else Budget.head(design)
    return LocalTraining(client.name, cut_ratio, budget, seed)


def trainings_at(bench: Workbench, cut_ratio: float) -> list[BackboneTraining | LocalTraining]:
    """Every network of a cut, for all clients and seeds."""
    design, clients = bench.design, bench.federation.clients
    wanted = [backbone_at(design, cut_ratio, seed) for seed in design.seeds]
    heads = [head_at(design, client, cut_ratio, seed) for seed in design.seeds for client in clients]
    return [training for training in (*wanted, *heads) if training is not None]


def networks_at(
    bench: Workbench, client: ClientData, cut_ratio: float, seed: int
) -> tuple[UNet | None, UNet | None]:
    """The backbone and the head that make a client's images."""
    backbone = backbone_at(bench.design, cut_ratio, seed)
    head = head_at(bench.design, client, cut_ratio, seed)
    return (
        None if backbone is None else bench.network(backbone),
        None if head is None else bench.network(head),
    )


def proportional_steps(design: Design, cut_ratio: float) -> StepPlan:
    """As many evaluations as `design` gives an image, divided between the sides as the cut divides the chain.

    That is how the papers have it, where the cut alone says what a device computes. Each side that owns a part makes one
    evaluation at least.
    """
    total = design.server_steps + design.head_steps
    if cut_ratio in (0, 1):
        return StepPlan(total, total, design.sampler)
    head = min(max(round(cut_ratio * total), 1), total - 1)
    return StepPlan(total - head, head, design.sampler)
