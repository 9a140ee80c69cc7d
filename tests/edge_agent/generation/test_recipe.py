from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from broker.contract.rounds import RoundV1
from edge_agent.errors import JobFailed
from edge_agent.generation.recipe import (
    REQUEST_SAMPLES,
    Recipe,
    check_label,
    denoise_request,
    noise_keys,
    slices,
    write_recipe,
)
from edge_agent.heads.facts import HeadFacts
from edge_agent.settings import EdgeSettings
from tests.edge_agent.rounds import SCHEDULE, opened_round

MakeSettings = Callable[..., EdgeSettings]


def facts(t_cut: int = 60, shape: tuple[int, int, int] = (1, 8, 8), num_classes: int | None = 3) -> HeadFacts:
    return HeadFacts("ward-1-abc", SCHEDULE, t_cut, shape, num_classes)


def recipe_of(settings: EdgeSettings, head: HeadFacts | None, round_: RoundV1 | None = None) -> Recipe:
    recipe = write_recipe(settings, head, round_)
    assert recipe is not None
    return recipe


def test_the_server_stops_where_the_head_begins(settings: MakeSettings) -> None:
    recipe = recipe_of(settings(server_steps=5, head_steps=3), facts())

    assert (recipe.server_plan[0], recipe.server_plan[-1], len(recipe.server_plan)) == (200, 60, 6)
    assert (recipe.head_plan[0], recipe.head_plan[-1], len(recipe.head_plan)) == (60, 0, 4)
    assert recipe.head == "ward-1-abc"


def test_a_head_of_the_whole_chain_asks_nobody(settings: MakeSettings) -> None:
    recipe = recipe_of(settings(), facts(t_cut=200))
    assert not recipe.asks_the_server
    assert (recipe.head_plan[0], recipe.head_plan[-1]) == (200, 0)


def test_without_a_head_the_server_does_all_if_the_cut_says_so(settings: MakeSettings) -> None:
    recipe = recipe_of(settings(cut_ratio=0.0), None, opened_round(cut_min=0.0))
    assert (recipe.server_plan[-1], recipe.head_plan, recipe.head) == (0, (0,), None)


def test_without_head_and_contract_the_shape_is_waited_for(settings: MakeSettings) -> None:
    assert write_recipe(settings(cut_ratio=0.0), None, None) is None


@pytest.mark.parametrize(
    ("head", "round_", "reason", "message"),
    [
        (None, None, "no_head", "the server stops at the cut t=60: .*`collafuse edge head install`"),
        (
            facts(),
            opened_round(schedule_id="0" * 16),
            "schedule_mismatch",
            f"{'0' * 16}.*{SCHEDULE.schedule_id}",
        ),
        (facts(), opened_round(shape=(3, 8, 8)), "shape_mismatch", r"\(3, 8, 8\).*\(1, 8, 8\)"),
    ],
)
def test_what_does_not_fit_together_fails_with_a_reason(
    settings: MakeSettings, head: HeadFacts | None, round_: RoundV1 | None, reason: str, message: str
) -> None:
    with pytest.raises(JobFailed, match=message) as caught:
        write_recipe(settings(), head, round_)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("label", "num_classes"), [(3, 3), (0, None)])
def test_a_label_that_the_head_does_not_know_fails(label: int, num_classes: int | None) -> None:
    check_label(None, facts(num_classes=num_classes), None)
    with pytest.raises(JobFailed, match="the head knows") as caught:
        check_label(label, facts(num_classes=num_classes), opened_round())
    assert caught.value.reason == "unknown_label"


def test_a_recipe_survives_the_spool(settings: MakeSettings) -> None:
    recipe = recipe_of(settings(sampler="dpmpp2m", eta=0.5, clip=None), facts())
    assert Recipe.from_json(recipe.to_json()) == recipe


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(1, 1024), st.integers(0, 2**63 - 1))
def test_slices_cover_a_job_once_and_no_two_samples_share_their_noise(count: int, seed: int) -> None:
    parts = slices(count, seed)
    covered = [first + i for part in parts for first, i in [(part.first, i) for i in range(part.samples)]]
    seeds, samples = noise_keys(count, seed)

    assert covered == list(range(count))
    assert all(part.samples <= REQUEST_SAMPLES for part in parts)
    assert all(0 <= part.seed < 2**63 for part in parts)
    assert parts[0].seed == seed
    assert len(set(zip(seeds.tolist(), samples.tolist(), strict=True))) == count


def test_a_request_says_all_that_the_server_needs(settings: MakeSettings) -> None:
    recipe = recipe_of(settings(sampler="ddpm", server_steps=7), facts())
    request = denoise_request(
        recipe, slices(300, 9)[0], request_id="a" * 32, label=2, dtype="float32", ttl_seconds=12.5
    )

    assert (request.n, request.seed, request.t_stop, request.sampler) == (256, 9, 60, "ddpm")
    assert request.labels is not None
    np.testing.assert_array_equal(request.labels, np.full(256, 2))
    assert (request.ttl_seconds, request.priority, request.dtype) == (12.5, "interactive", "float32")
