"""Texts read by a T5 of random weights: each once, and heard through a projection that learns."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from diffusion.network import UNetConfig
from evaluation.conditioning.asked_network import AskedNetwork, check_prompts
from evaluation.conditioning.asking import Way, all_captions, every_kind
from evaluation.conditioning.projected_texts import ProjectedTexts, RememberedT5, remembered
from evaluation.conditioning.t5_directory import T5Directory
from evaluation.conditioning.t5_encoder import T5TextEncoder
from evaluation.errors import TextError
from tests.evaluation.tiny_t5 import save_tiny_t5

CAPTIONS = all_captions()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> T5Directory:
    return T5Directory.at(save_tiny_t5(tmp_path_factory.mktemp("t5")))


@pytest.fixture(scope="module")
def encoder(directory: T5Directory) -> RememberedT5:
    return RememberedT5(directory)


def test_each_text_is_read_once_and_alone(directory: T5Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    encode = T5TextEncoder.encode

    def noted(self: T5TextEncoder, texts: Sequence[str]) -> torch.Tensor:
        read.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(T5TextEncoder, "encode", noted)
    first, second = RememberedT5(directory), RememberedT5(directory)
    together = first.encode(["no lesion", "a lesion", "no lesion", "a brain with a large lesion"])
    again = first.encode(["a lesion", "a healthy brain"])
    assert read == ["no lesion", "a lesion", "a brain with a large lesion", "a healthy brain"]
    # To the last bit, in whatever company.
    assert torch.equal(together[0], together[2])
    assert torch.equal(together[1], again[0])
    assert torch.equal(second.encode(["a lesion"])[0], again[0])
    assert torch.equal(together[1], T5TextEncoder.from_directory(directory.path).encode(["a lesion"])[0])


def test_one_process_has_one_of_each(directory: T5Directory, tmp_path: Path) -> None:
    assert remembered(directory) is remembered(T5Directory(directory.path, directory.digest))
    other = T5Directory.at(save_tiny_t5(tmp_path / "other", seed=1))
    assert remembered(other) is not remembered(directory)
    elsewhere = T5Directory(tmp_path / "elsewhere", directory.digest)
    assert remembered(elsewhere).name != remembered(directory).name
    texts = ["a small lesion on the left"]
    assert not torch.allclose(remembered(other).encode(texts), remembered(directory).encode(texts))


def test_opening_an_encoder_draws_nothing_of_what_the_caller_draws(directory: T5Directory) -> None:
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    RememberedT5(directory).encode(["no lesion"])
    assert torch.equal(torch.randn(3), expected)


def test_what_tells_captions_apart_is_learned_and_the_encoder_stays_as_it_is(encoder: RememberedT5) -> None:
    before = encoder.encode(CAPTIONS).clone()
    wanted = torch.tensor([["left" in text, "right" in text, "large" in text] for text in CAPTIONS]).float()
    torch.manual_seed(0)
    texts, answer = ProjectedTexts(encoder, CAPTIONS, 32), nn.Linear(32, 3)
    optimiser = torch.optim.Adam([*texts.parameters(), *answer.parameters()], lr=0.01)
    for _ in range(300):
        optimiser.zero_grad()
        torch.autograd.backward((answer(texts.conditions(CAPTIONS)) - wanted).square().mean())
        optimiser.step()
    with torch.no_grad():
        assert torch.equal(answer(texts.conditions(CAPTIONS)) > 0.5, wanted > 0.5)
    assert torch.equal(encoder.encode(CAPTIONS), before)
    assert all(parameter.grad is not None for parameter in texts.parameters())


def test_what_all_captions_share_is_taken_off(encoder: RememberedT5) -> None:
    texts = ProjectedTexts(encoder, CAPTIONS, 8)
    vectors = encoder.encode(CAPTIONS)
    shift = torch.full((16,), 100.0)
    moved = ProjectedTexts(Shifted(encoder, shift), CAPTIONS, 8)
    moved.project.load_state_dict(texts.project.state_dict())
    assert not torch.allclose(moved.mean, texts.mean)
    torch.testing.assert_close(moved(vectors + shift), texts(vectors), rtol=1e-3, atol=1e-3)


class Shifted:
    """An encoder whose vectors all have something in common."""

    name = "shifted"

    def __init__(self, encoder: RememberedT5, shift: torch.Tensor) -> None:
        self._encoder, self._shift = encoder, shift

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder.encode(texts) + self._shift


def test_a_network_put_together_again_is_asked_alike_in_any_words(encoder: RememberedT5) -> None:
    torch.manual_seed(0)
    made = AskedNetwork(UNetConfig(1, 16, 8, (1, 2), num_classes=3), encoder).eval()
    again = AskedNetwork.of(made.network, made.encoders, encoder)
    kinds = every_kind(0.5)
    for way in Way:
        assert torch.equal(again.question(kinds, way).asked, made.question(kinds, way).asked)
    asked = again.question_in_words(["a tiny tumour in the left half", "a small lesion on the left"])
    assert asked.asked.shape == (2, 32)
    assert not asked.asked.requires_grad
    assert not torch.allclose(asked.asked[0], asked.asked[1], atol=1e-2)
    torch.testing.assert_close(asked.asked.std(dim=1, correction=0), torch.ones(2), rtol=0.05, atol=0)


def test_a_prompt_is_refused_only_where_the_encoder_cannot_read_it(encoder: RememberedT5) -> None:
    check_prompts(["a tiny tumour in the left half"], encoder)
    check_prompts([], encoder)
    for prompt, message in (("", "--prompt: text 1 of 1 is empty"), ("a 3 cm tumour", "no token for 3 in")):
        with pytest.raises(TextError, match=message):
            check_prompts([prompt], encoder)
