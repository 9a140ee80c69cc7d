"""The loss by third of the noise range."""

from collections.abc import Mapping

from torch import Tensor

from monitoring.metrics import NOISE_LEVELS


def by_level(t: Tensor, per_sample: Tensor, T: int) -> Mapping[str, float]:
    """Mean loss of the samples in each third of [1, T], of the thirds that were hit.

    t: (B,) int64;  per_sample: (B,) float32.  Both are better on the host: every mean is read from there.
    """
    thirds = ((t - 1) * len(NOISE_LEVELS) // T).clamp(max=len(NOISE_LEVELS) - 1)
    return {
        name: float(per_sample[thirds == index].mean())
        for index, name in enumerate(NOISE_LEVELS)
        if bool((thirds == index).any())
    }
