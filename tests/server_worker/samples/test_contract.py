"""What a federation takes of its devices."""

import numpy as np
import pytest

from broker.contract.samples import SamplesV1
from broker.errors import Refused
from server_worker.samples.contract import MAX_VALUE, check_samples
from tests.server_worker.backbones import CONTRACT, SCHEDULE, SHAPE, T

HUGE = 3e38


def batch(value: float, dtype: str = "float32", noise: float | None = None) -> SamplesV1:
    """Two samples of one value each; with `noise` they are pairs, one of whose noises has that value."""
    x = np.full((2, *SHAPE), 0.5, np.float32)
    x[1, 0, 3, 3] = value
    made = SamplesV1.pack(
        x,
        schedule_id=SCHEDULE.schedule_id,
        t_cut=40,
        release=0,
        dtype=dtype,  # type: ignore[arg-type]
    )
    if noise is None:
        return made
    noises = np.zeros((2, *SHAPE), np.float16)
    noises[0, 0, 0, 0] = noise
    return SamplesV1(**(dict(made) | {"t": np.array([50, T], np.int32), "noise": noises}))


@pytest.mark.parametrize(
    "message",
    [
        batch(HUGE),
        batch(-HUGE),
        batch(1001.0),
        batch(-60_000.0, "float16"),
        batch(HUGE, "int8"),
        batch(1.0, noise=60_000.0),
        batch(1.0, noise=-1001.0),
    ],
)
def test_values_that_no_image_and_no_noise_has_are_refused(message: SamplesV1) -> None:
    with pytest.raises(Refused, match="at most 1000 is taken") as caught:
        check_samples(message, CONTRACT)
    assert caught.value.reason == "value_out_of_range"


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_unusual_values_that_training_survives_are_taken(dtype: str) -> None:
    check_samples(batch(MAX_VALUE, dtype, noise=-MAX_VALUE), CONTRACT)
