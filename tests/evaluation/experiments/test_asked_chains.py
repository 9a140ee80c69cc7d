"""Training that hears every way of asking, chains that are asked on one side or both, and what the server sees of it."""

import numpy as np
import pytest
import torch

from evaluation.conditioning.asked_network import AskedNetwork
from evaluation.conditioning.asking import Asked, Way, all_captions, every_kind
from evaluation.experiments.conditioning.disclosure import disclosure_findings, request, servers_view
from evaluation.experiments.conditioning.generation import Chain, Guidance, head_part, server_part
from evaluation.experiments.conditioning.training import AskedTraining, _Known
from evaluation.reporting.outcome import Weight
from evaluation.running.federation import Federation, FederationPlan
from evaluation.running.fitting import unet_config
from evaluation.running.generation import StepPlan, generate
from evaluation.running.trainings import Budget

PLAN = FederationPlan("phantoms32", image_size=16, limit=60)
BUDGET = Budget(width=8, updates=5, batch_size=48, learning_rate=1e-2)
LEFT = every_kind(0.5).take(np.full(3, 1))
RIGHT = every_kind(0.5).take(np.full(3, 6))


def trained(federation: Federation, client: str | None, seed: int = 0) -> AskedNetwork:
    training = AskedTraining(PLAN, client, 0.4, BUDGET, seed)
    made = training.train(federation, lambda *_: None)
    return AskedNetwork.of(made.network, made.extra)


@pytest.fixture(scope="module")
def backbone(federation: Federation) -> AskedNetwork:
    return trained(federation, None)


@pytest.fixture(scope="module")
def woken(backbone: AskedNetwork) -> AskedNetwork:
    """One whose answers to different requests differ visibly, as they would after a long training."""
    torch.manual_seed(3)
    made = AskedNetwork.of(backbone.network, backbone.encoders)
    for parameter in made.network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


@pytest.fixture(scope="module")
def chain(federation: Federation) -> Chain:
    return Chain(federation.schedule, 20, StepPlan(3, 2, "ddpm"), (1, 16, 16))


@pytest.mark.parametrize("client", [None, "east"])
def test_labels_attributes_texts_and_nothing_are_all_learned(
    federation: Federation, client: str | None
) -> None:
    made = trained(federation, client)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = AskedNetwork(unet_config((1, 16, 16), 8, 3)).state_dict()
    moved = {name: (value - fresh[name]).abs() for name, value in made.state_dict().items()}
    # Weight decay alone moves none of them so far.
    for name in (
        "network.null_condition",
        "network.embed_condition.0.weight",
        "texts.embed.weight",
        "texts.read.weight",
        "attributes.0.weight",
    ):
        assert moved[name].max() > 1e-4, name
    # Every label, and the last row, which is "no label".
    assert moved["network.embed_label.weight"].amax(dim=1).min() > 1e-4


def test_captions_are_told_as_often_as_labels_and_attributes_together(backbone: AskedNetwork) -> None:
    asked, told = every_kind(0.5), []
    hook = backbone.network.register_forward_pre_hook(lambda _, given: told.append(given[2:]))
    rows = torch.arange(7).repeat(400)
    predict = _Known(asked.attributes).told(backbone, rows, torch.Generator().manual_seed(0))
    predict(torch.zeros(len(rows), 1, 16, 16), torch.ones_like(rows), None)
    hook.remove()
    ((label, condition),) = told
    captions = backbone.texts.conditions(all_captions())
    in_words = (condition[:, None] == captions).all(dim=2).any(dim=1).float().mean()
    by_label = (label < backbone.network.config.num_classes).float().mean()
    # One in ten of either is dropped.
    assert in_words.item() == pytest.approx(0.45, abs=0.04)
    assert by_label.item() == pytest.approx(0.225, abs=0.04)


def test_the_same_seed_trains_the_same_weights(federation: Federation, backbone: AskedNetwork) -> None:
    again, other = trained(federation, None), trained(federation, None, seed=1)
    for name, weight in backbone.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert not torch.allclose(other.network.first.weight, backbone.network.first.weight)


def test_asked_by_label_at_scale_one_a_chain_is_the_one_of_the_other_experiments(
    woken: AskedNetwork, chain: Chain
) -> None:
    asked = every_kind(0.5)
    question = woken.question(asked, Way.LABEL)
    at_cut = server_part(chain, question, 1.0, seed=5)
    finished = head_part(chain, question, 1.0, at_cut, seed=5)
    expected = generate(
        chain.schedule, woken.network, woken.network, 20, asked.labels, chain.steps, shape=(1, 16, 16), seed=5
    )
    np.testing.assert_allclose(at_cut, expected.at_cut, atol=1e-5)
    np.testing.assert_allclose(finished, expected.finished, atol=1e-5)


@pytest.mark.parametrize("way", list(Way))
def test_a_side_that_is_not_asked_does_the_same_whatever_is_asked_and_one_that_is_does_not(
    woken: AskedNetwork, chain: Chain, way: Way
) -> None:
    left, right = woken.question(LEFT, way), woken.question(RIGHT, way)
    silent = [server_part(chain, question, 0.0, seed=5) for question in (left, right)]
    np.testing.assert_array_equal(silent[0], silent[1])
    asked = [server_part(chain, question, 2.0, seed=5) for question in (left, right)]
    assert np.abs(asked[0] - asked[1]).max() > 1e-3
    finished = [head_part(chain, question, 2.0, silent[0], seed=5) for question in (left, right)]
    assert np.abs(finished[0] - finished[1]).max() > 1e-3
    unasked = [head_part(chain, question, 0.0, silent[0], seed=5) for question in (left, right)]
    np.testing.assert_array_equal(unasked[0], unasked[1])


def test_the_request_of_a_prompt_for_the_head_alone_is_the_same_for_every_prompt(
    woken: AskedNetwork, chain: Chain
) -> None:
    head_only, both = Guidance(0.0, 2.0), Guidance(2.0, 2.0)
    assert request(chain, LEFT, head_only, 7) == request(chain, RIGHT, head_only, 7)
    assert request(chain, LEFT, both, 7) != request(chain, RIGHT, both, 7)
    assert request(chain, LEFT, head_only, 7) != request(chain, LEFT, head_only, 8)
    hidden = servers_view(chain, woken, (LEFT, RIGHT), head_only, 7)
    assert hidden.same_request
    assert hidden.same_latents
    shown = servers_view(chain, woken, (LEFT, RIGHT), both, 7)
    assert not shown.same_request
    assert not shown.same_latents


def test_both_controls_of_the_disclosure_hold_and_fail_where_nothing_differs(
    woken: AskedNetwork, chain: Chain
) -> None:
    def weights(two: tuple[Asked, Asked]) -> list[Weight]:
        return [finding.weight for finding in disclosure_findings(chain, woken, two, 2.0)]

    assert weights((LEFT, RIGHT)) == [Weight.CONTROL, Weight.CONTROL, Weight.FACT]
    assert weights((LEFT, LEFT)) == [Weight.CONTROL, Weight.FAILED_CONTROL, Weight.FACT]


def test_a_large_request_is_made_in_batches_that_change_nothing(
    woken: AskedNetwork, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = woken.question(every_kind(0.5), Way.TEXT)
    whole = server_part(chain, question, 2.0, seed=5)
    monkeypatch.setattr("evaluation.experiments.conditioning.generation.BATCH", 3)
    np.testing.assert_allclose(server_part(chain, question, 2.0, seed=5), whole, atol=1e-5)


def test_who_is_asked_in_words() -> None:
    words = [Guidance(server, head).words for server in (0.0, 1.0) for head in (0.0, 1.0)]
    assert words == ["nobody", "head only", "server only", "server and head"]
