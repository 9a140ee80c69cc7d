import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server_worker.settings import BLOCK_SAMPLES
from server_worker.training.draws import draw, picks
from tests.server_worker.backbones import CPU, SHAPE

seeds = st.integers(0, 2**63 - 1)
steps = st.integers(0, 10**9)


@given(seeds, steps, st.integers(1, 4), st.integers(1, 3))
def test_ranks_together_draw_what_one_would(seed: int, step: int, ranks: int, blocks: int) -> None:
    size = blocks * BLOCK_SAMPLES
    whole = draw(seed, step, range(ranks * size), SHAPE, CPU)
    parts = [draw(seed, step, range(rank * size, (rank + 1) * size), SHAPE, CPU) for rank in range(ranks)]

    for index in range(2):
        assert torch.equal(torch.cat([part[index] for part in parts]), whole[index])


@given(seeds, steps)
def test_a_step_draws_the_same_again_and_another_step_or_seed_something_else(seed: int, step: int) -> None:
    def numbers(seed: int, step: int) -> tuple[torch.Tensor, float]:
        return draw(seed, step, range(20), SHAPE, CPU)[1], picks(seed, step).random()

    noise, pick = numbers(seed, step)
    again, pick_again = numbers(seed, step)
    assert torch.equal(noise, again)
    assert pick == pick_again
    for other in (numbers(seed, step + 1), numbers((seed + 1) % 2**63, step)):
        assert not torch.equal(noise, other[0])
        assert pick != other[1]


@pytest.mark.parametrize("count", [1, 7, 40])
def test_any_number_of_samples_can_be_drawn_and_no_two_are_alike(count: int) -> None:
    places, noise = draw(5, 9, range(count), SHAPE, CPU)

    assert places.dtype == torch.float64
    assert (places.shape, noise.shape) == ((count,), (count, *SHAPE))
    assert len({float(value) for value in places}) == count
    assert len({float(value) for value in noise[:, 0, 0, 0]}) == count


def test_the_draws_are_uniform_and_standard_normal() -> None:
    drawn = [draw(1, step, range(64), SHAPE, CPU) for step in range(100)]
    places = torch.cat([each[0] for each in drawn]).numpy()
    noise = torch.cat([each[1] for each in drawn]).numpy()

    assert abs(places.mean() - 0.5) < 4 * np.sqrt(1 / 12 / places.size)
    assert (places.min() >= 0, places.max() < 1) == (True, True)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    lagged = np.corrcoef(noise[:-1, 0, 0, 0], noise[1:, 0, 0, 0])[0, 1]
    assert abs(lagged) < 4 / np.sqrt(len(noise))
