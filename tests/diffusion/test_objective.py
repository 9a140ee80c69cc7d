"""The losses: what minimises them, and which steps they visit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion.errors import DiffusionError
from diffusion.objective import local_loss, pairs_loss, released_loss
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut, pair
from tests.diffusion.oracle import example

TARGET = example()
SCHEDULE = NoiseSchedule.cosine(60)
CUT_SETS = [[0.0], [0.2], [0.5], [0.8], [0.1, 0.5, 0.9]]

Shift = Callable[[Tensor, Tensor], Tensor]

# Ways to be a little wrong: too loud, too quiet, biased, blind to the image, and wrong at one end of the chain only.
ERRORS: list[Shift] = [
    lambda x, eps: 1.1 * eps,
    lambda x, eps: 0.9 * eps,
    lambda x, eps: eps + 0.1,
    lambda x, eps: eps - 0.1,
    lambda x, eps: eps + 0.1 * x,
    lambda x, eps: eps.roll(1, dims=1),
]


def oracle(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    gains = torch.tensor(np.stack([TARGET.gain(float(a)) for a in SCHEDULE.alpha_bar]))
    means = torch.tensor(np.sqrt(SCHEDULE.alpha_bar)[:, None] * TARGET.mean)
    predicted: Tensor = gains[t] @ (x.flatten(1) - means[t])[:, :, None]
    return predicted.reshape(x.shape)


def released(cuts: list[float], count: int = 30_000) -> tuple[Tensor, Tensor]:
    """Releases of TARGET with the cuts in turn: x_c, t_cut."""
    x0 = torch.tensor(TARGET.draw(count, seed=1))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2), dtype=x0.dtype)
    t_cut = torch.tensor([Cut(SCHEDULE, c).t_cut for c in cuts]).repeat(count // len(cuts))
    kept = torch.tensor(SCHEDULE.alpha_bar)[t_cut].reshape(-1, 1, 1, 1)
    return kept.sqrt() * x0 + (1 - kept).sqrt() * noise, t_cut


@pytest.mark.parametrize("cuts", CUT_SETS, ids=str)
def test_the_loss_on_releases_is_least_for_the_oracle_of_the_whole_chain(cuts: list[float]) -> None:
    x_c, t_cut = released(cuts)

    def loss(shift: Shift) -> float:
        def predict(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            return shift(x, oracle(x, t, label))

        draws = torch.Generator().manual_seed(3)
        return float(released_loss(predict, SCHEDULE, x_c, t_cut, None, generator=draws)[0])

    best = loss(lambda x, eps: eps)
    assert min(loss(error) for error in ERRORS) > best * 1.0005


def test_the_loss_per_sample_and_its_steps_are_those_of_the_loss() -> None:
    x_c, t_cut = released([0.2, 0.7], count=4000)
    draws = torch.Generator().manual_seed(0)
    loss, t, per_sample = released_loss(oracle, SCHEDULE, x_c, t_cut, None, generator=draws)
    assert t.dtype == torch.int64
    assert per_sample.shape == t.shape == (4000,)
    assert float(loss) == pytest.approx(float(per_sample.mean()))
    for cut in (12, 42):
        visited = t[t_cut == cut]
        assert set(visited.tolist()) == set(range(cut + 1, 61))
        counts = torch.bincount(visited - cut - 1).double()
        assert counts.std() < 2 * counts.mean().sqrt()


def test_pairs_made_by_the_client_are_learnt_from_alike() -> None:
    x_c, t_cut = released([0.2, 0.7], count=1000)
    t = torch.randint(43, 61, (1000,), generator=torch.Generator().manual_seed(5))
    noise = torch.randn(x_c.shape, generator=torch.Generator().manual_seed(6), dtype=x_c.dtype)
    x_t = pair(SCHEDULE, x_c, t_cut, t, noise)
    loss, seen, per_sample = pairs_loss(oracle, SCHEDULE, x_t, noise, t, t_cut=t_cut, label=None)
    for i in (0, 1, 999):
        cut = Cut(SCHEDULE, [0.2, 0.7][i % 2])
        w = cut.weight(t[i : i + 1])
        difference = w.sqrt() * oracle(x_t[i : i + 1], t[i : i + 1], None) - noise[i : i + 1]
        assert float(per_sample[i]) == pytest.approx(float(difference.square().mean()))
    assert torch.equal(seen, t)
    assert float(loss) == pytest.approx(float(per_sample.mean()))


def test_a_heads_loss_is_least_for_the_oracle_and_visits_the_clients_steps_only() -> None:
    x0 = torch.tensor(TARGET.draw(30_000, seed=1))
    visited: set[int] = set()

    def loss(shift: Shift) -> float:
        def predict(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            visited.update(t.tolist())
            return shift(x, oracle(x, t, label))

        return float(local_loss(predict, SCHEDULE, x0, None, 12, torch.Generator().manual_seed(3)))

    best = loss(lambda x, eps: eps)
    assert min(loss(error) for error in ERRORS) > best * 1.0005
    assert visited == set(range(1, 13))


def test_labels_reach_the_network() -> None:
    label = torch.tensor([3, 1])
    seen: list[Tensor | None] = []

    def predict(x: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
        seen.append(given)
        return torch.zeros_like(x)

    x, draws = torch.zeros(2, 1, 4, 4), torch.Generator().manual_seed(0)
    released_loss(predict, SCHEDULE, x, torch.tensor([5, 6]), label, generator=draws)
    local_loss(predict, SCHEDULE, x, label, 5, draws)
    assert all(given is label for given in seen)
    assert len(seen) == 2


def test_the_same_generator_draws_the_same_loss() -> None:
    x_c, t_cut = released([0.5], count=100)
    losses = {
        float(
            released_loss(oracle, SCHEDULE, x_c, t_cut, None, generator=torch.Generator().manual_seed(s))[0]
        )
        for s in (1, 1, 2)
    }
    assert len(losses) == 2


def test_a_cut_that_leaves_nothing_to_learn_is_refused() -> None:
    x, draws = torch.zeros(2, 1, 4, 4), torch.Generator()
    with pytest.raises(DiffusionError, match="nothing to learn"):
        released_loss(oracle, SCHEDULE, x, torch.tensor([5, 60]), None, generator=draws)
    for t_cut in (0, 61):
        with pytest.raises(DiffusionError, match="choose another cut"):
            local_loss(oracle, SCHEDULE, x, None, t_cut, draws)
