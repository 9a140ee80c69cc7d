"""Either side's network without the other's: whether the server could finish images, and whether a device could stop asking.

The second CollaFuse paper plots both over the cut, each network run over the whole chain. There it is asked at steps that it
never learned. Whoever knows that keeps to the steps learned, so that is made as well: the server takes its last estimate x̂_0
for the image, and the device takes noise for what the server would have handed over.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from diffusion.network import UNet
from evaluation.data.images import ClientData
from evaluation.measuring.chain import proportional_steps
from evaluation.measuring.quality import ClientQuality, Quality, judged
from evaluation.running.generation import Generated, StepPlan, generate
from evaluation.running.workbench import Workbench


class Alone(StrEnum):
    """Who makes an image alone, and how, in words."""

    SERVER = "the server alone, over all steps"
    SERVER_ESTIMATE = "the server alone, its estimate at the cut"
    DEVICE = "a device alone, over all steps"
    DEVICE_FROM_CUT = "a device alone, from noise at the cut"


def made_alone(
    bench: Workbench, client: ClientData, cut_ratio: float, seed: int, networks: tuple[UNet, UNet]
) -> dict[Alone, Generated]:
    """A client's images by either network alone, from the noise that the chain starts from, with as many evaluations in all.

    cut_ratio: an inner one;  networks: the backbone and the head of this cut, client and seed.
    """
    backbone, head = networks
    T, t_cut = bench.schedule.T, bench.t_cut(cut_ratio)
    plan = proportional_steps(bench.design, cut_ratio)
    total = plan.server_steps + plan.head_steps

    def run(server: UNet | None, device: UNet | None, cut: int, evaluations: tuple[int, int]) -> Generated:
        return generate(
            bench.schedule,
            server,
            device,
            cut,
            bench.labels_for(client),
            StepPlan(*evaluations, bench.design.sampler),
            shape=bench.federation.shape,
            seed=seed,
        )

    return {
        Alone.SERVER: run(backbone, None, 0, (total, 0)),
        # The last of the steps learned is t_c + 1; from there one evaluation leads to 0, which is the estimate itself.
        Alone.SERVER_ESTIMATE: run(backbone, backbone, t_cut + 1, (total - 1, 1)),
        Alone.DEVICE: run(None, head, T, (0, total)),
        Alone.DEVICE_FROM_CUT: run(None, head, t_cut, (0, total)),
    }


def judged_alone(
    bench: Workbench,
    client: ClientData,
    cut_ratio: float,
    seed: int,
    networks: tuple[UNet | None, UNet | None],
) -> dict[Alone, ClientQuality]:
    """How good these images are; nothing where one side has the whole chain anyway."""
    backbone, head = networks
    if backbone is None or head is None:
        return {}
    made = made_alone(bench, client, cut_ratio, seed, (backbone, head))
    return {alone: judged(bench, client, images.as_images()) for alone, images in made.items()}


def alone_over_seeds(by_seed: Sequence[Sequence[Mapping[Alone, ClientQuality]]]) -> dict[Alone, Quality]:
    """by_seed: for every seed, `judged_alone` of every client."""
    ways = [alone for alone in Alone if alone in by_seed[0][0]]
    return {
        alone: Quality(tuple(tuple(client[alone] for client in clients) for clients in by_seed))
        for alone in ways
    }
