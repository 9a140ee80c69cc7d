"""How well a network predicts the noise of releases that it was never trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from diffusion.network import UNet
from diffusion.objective import pairs_loss
from diffusion.schedule import NoiseSchedule
from server_worker.errors import Damaged
from server_worker.samples.store import SampleStore
from server_worker.training.levels import by_level
from server_worker.training.pairs import Pairs, pairs_of

SAMPLES = 512
CHUNK_SAMPLES = 64


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean loss of an averaged network on held-out releases, of all and by third of the noise range."""

    loss: float
    by_level: Mapping[str, float]


def held_out_pairs(
    store: SampleStore, schedule: NoiseSchedule, num_classes: int | None, seed: int, device: torch.device
) -> Pairs | None:
    """Held-out releases at fixed steps with fixed noise, so that two networks are compared on the same terms.

    At most 512 samples are drawn, clients balanced; the same ones as long as the store holds the same. Their steps are
    stratified: one in each of as many equal parts of the range above the cut, in random order, for little
    variance.

    Returns None when nothing is held out.
    """
    count = min(SAMPLES, store.held_out_samples)
    if count == 0:
        return None
    rng = np.random.default_rng([seed, count])
    try:
        batch = store.batch(rng, count, held_out=True)
    except Damaged:
        return None
    places = (rng.permutation(count) + 0.5) / count
    noise = rng.standard_normal(batch.x.shape, dtype=np.float32)
    return pairs_of(
        batch,
        schedule,
        torch.from_numpy(places).to(device),
        torch.from_numpy(noise).to(device),
        num_classes,
    )


@torch.no_grad()
def evaluate(network: UNet, schedule: NoiseSchedule, pairs: Pairs) -> HeldOutLoss:
    """The exact loss of a network in eval mode, on the device of the pairs."""
    found = []
    for first in range(0, len(pairs.t), CHUNK_SAMPLES):
        part = pairs.part(slice(first, first + CHUNK_SAMPLES))
        found.append(
            pairs_loss(network, schedule, part.x_t, part.noise, part.t, t_cut=part.t_cut, label=part.label)[2]
        )
    per_sample = torch.cat(found).cpu()
    return HeldOutLoss(float(per_sample.mean()), by_level(pairs.t.cpu(), per_sample, schedule.T))
