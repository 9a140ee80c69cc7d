"""A network that is asked in three ways: what each of them means to it, and how it is put together again."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion.guidance import guided
from diffusion.network import UNetConfig
from evaluation.conditioning.asked_network import AskedNetwork, check_prompts
from evaluation.conditioning.asking import Asked, Way, every_kind
from evaluation.errors import TextError

KINDS = every_kind(contrast=0.5)
X = torch.randn(7, 1, 16, 16, generator=torch.Generator().manual_seed(1))
T = torch.full((7,), 40)


@pytest.fixture(scope="module")
def made() -> AskedNetwork:
    torch.manual_seed(0)
    network = AskedNetwork(UNetConfig(1, 16, 8, (1, 2), num_classes=3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval().requires_grad_(requires_grad=False)


def answers(network: AskedNetwork, asked: Asked, way: Way, scale: float = 1.0) -> Tensor:
    question = network.question(asked, way)
    return guided(question.predict, question.asked, question.nothing, scale)(X[: len(asked)], T[: len(asked)])


def test_put_together_again_it_answers_alike(made: AskedNetwork) -> None:
    again = AskedNetwork.of(made.network, made.encoders)
    for way in Way:
        torch.testing.assert_close(answers(again, KINDS, way), answers(made, KINDS, way), rtol=0, atol=0)


@pytest.mark.parametrize("way", list(Way))
def test_every_way_is_heard_and_unheard_it_is_the_same_as_any_other(made: AskedNetwork, way: Way) -> None:
    silent = made.network(X, T)
    torch.testing.assert_close(answers(made, KINDS, way, scale=0.0), silent, rtol=1e-4, atol=1e-5)
    assert (answers(made, KINDS, way) - silent).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_a_label_cannot_say_the_size_and_the_others_can(made: AskedNetwork) -> None:
    same_noise = X[:1].expand(7, -1, -1, -1)
    for way in Way:
        question = made.question(KINDS, way)
        small, large = question.predict(same_noise, T, question.asked)[[1, 5]]
        assert torch.allclose(small, large, atol=1e-6) == (way is Way.LABEL)


def test_some_of_the_samples_are_asked_what_they_were(made: AskedNetwork) -> None:
    question = made.question(KINDS, Way.TEXT).of(slice(2, 4))
    some = question.predict(X[2:4], T[2:4], question.asked)
    torch.testing.assert_close(some, answers(made, KINDS, Way.TEXT)[2:4], rtol=1e-4, atol=1e-5)


def test_a_caption_means_the_same_whoever_writes_it(made: AskedNetwork) -> None:
    words = made.question_in_words(["A small lesion on the LEFT!"])
    torch.testing.assert_close(words.asked, made.question(KINDS.take(np.array([1])), Way.TEXT).asked)


def test_a_prompt_in_unknown_words_is_refused_before_anything_is_trained() -> None:
    check_prompts(["no lesion", "a large lesion on the right side"])
    with pytest.raises(TextError, match="--prompt: unknown in 'a smal lesion': smal; did you mean small"):
        check_prompts(["no lesion", "a smal lesion"])
