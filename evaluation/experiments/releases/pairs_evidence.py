"""What a pair (x_t, ε_s, t) of the papers' policy gives away: the release that it was made from, but for rounding."""

import numpy as np

from diffusion.schedule import NoiseSchedule
from evaluation.attacks.averaging import Evidence, wide
from evaluation.experiments.releases.upload import ClientPairs

ROUNDING_VARIANCE = 4.3e-8
"""What rounding to float16 adds to a standard normal value: E[ulp²]/12, −74 dB."""


def of_pairs(pairs: ClientPairs, schedule: NoiseSchedule, t_cut: int) -> Evidence:
    """A pair as evidence of x_0: x_c = (x_t − √(1-r) ε_s)/√r, exact but for the rounding of what was sent as float16.

    The rounding of x_t and of ε_s, both of variance 1 or nearly, adds noise that the division by r makes larger: it is felt
    where t is near T and hardly anything of the image is left in x_t.
    """
    r = schedule.alpha_bar[pairs.t] / schedule.alpha_bar[t_cut]
    noisy, known = pairs.x_t.astype(np.float64), pairs.noise.astype(np.float64)
    x_c = (noisy - wide(np.sqrt(1 - r)) * known) / wide(np.sqrt(r))
    alpha_bar = float(schedule.alpha_bar[t_cut])
    rounding = ROUNDING_VARIANCE * (2 - r) / r  # ε_s counts by 1 − r
    return Evidence(x_c / np.sqrt(alpha_bar), (1 - alpha_bar + rounding) / alpha_bar)
