"""The built-in encoder: which words it knows, what it can learn to tell apart, and how it is kept."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.conditioning.built_in_encoder import BuiltInTextEncoder
from evaluation.conditioning.vocabulary import Vocabulary
from evaluation.errors import TextError

CAPTIONS = tuple(
    f"{article} {size} lesion on the {side}"
    for article in ("a", "one")
    for size in ("small", "large")
    for side in ("left", "right")
)


def made(texts: tuple[str, ...] = CAPTIONS, size: int = 16, seed: int = 0) -> BuiltInTextEncoder:
    torch.manual_seed(seed)
    return BuiltInTextEncoder(Vocabulary.of(texts), size)


def taught(texts: tuple[str, ...], targets: torch.Tensor) -> tuple[BuiltInTextEncoder, nn.Linear]:
    """An encoder that learned together with one linear layer to answer ±1 for each column of the targets."""
    encoder = made(texts)
    answer = nn.Linear(encoder.size, targets.shape[1])
    optimiser = torch.optim.Adam([*encoder.parameters(), *answer.parameters()], lr=0.02)
    numbers = encoder.numbers(texts)
    for _ in range(150):
        optimiser.zero_grad()
        torch.autograd.backward((answer(encoder(numbers)) - targets).square().mean())
        optimiser.step()
    return encoder.eval(), answer


def test_words_are_numbered_whatever_their_case_and_punctuation() -> None:
    vocabulary = Vocabulary.of(["No lesion.", "a lesion, on the LEFT"])
    assert vocabulary.words == ("a", "left", "lesion", "no", "on", "the")
    numbers = vocabulary.numbers(["NO lesion", "a left lesion!"])
    np.testing.assert_array_equal(numbers, [[4, 3, 0], [1, 2, 3]])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a smal lesion on the left"], "unknown in .*: smal; did you mean small"),
        (["a lesion in xylophone"], ": in, xylophone; "),
        (["qqqq"], "use these words: a, large, left"),
        (["?!"], "no word"),
        (["a", ""], "2 of 2 is empty"),
        ([], "no text"),
    ],
)
def test_a_text_it_cannot_read_is_refused_and_the_words_are_named(texts: list[str], message: str) -> None:
    with pytest.raises(TextError, match=message) as caught:
        made().encode(texts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [(), ("a", "a"), ("Left",), ("two words",)], ids=str)
def test_words_that_are_none_make_no_vocabulary(words: tuple[str, ...]) -> None:
    with pytest.raises(TextError, match="not a vocabulary"):
        Vocabulary(words)


def test_padding_changes_nothing() -> None:
    encoder = made()
    together = encoder.encode(["a lesion", "a small lesion on the left"])
    assert together.shape == (2, 16)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    torch.testing.assert_close(together[:1], encoder.encode(["a lesion"]))


def test_left_and_right_and_small_and_large_are_learned_and_hold_for_wordings_not_seen() -> None:
    targets = torch.tensor([["large" in text, "right" in text] for text in CAPTIONS]).float() * 2 - 1
    encoder, answer = taught(CAPTIONS, targets)
    with torch.no_grad():
        said = answer(encoder.encode(["on the right a large lesion", "small left", "the left one large"]))
    assert torch.equal(said > 0, torch.tensor([[True, True], [False, False], [True, False]]))


def test_the_order_of_words_is_heard() -> None:
    """A bag of words could not tell these two: both hold the same ones."""
    texts = ("on the left but not on the right", "on the right but not on the left")
    encoder, answer = taught(texts, torch.tensor([[-1.0], [1.0]]))
    said = answer(encoder.encode(texts)).flatten()
    assert said[0] < -0.9
    assert said[1] > 0.9


def test_every_weight_learns() -> None:
    encoder = made()
    torch.autograd.backward(encoder(encoder.numbers(CAPTIONS)).pow(3).sum())
    assert [
        name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_what_is_kept_encodes_alike(tmp_path: Path) -> None:
    encoder = made()
    encoder.save(tmp_path / "words")
    kept = BuiltInTextEncoder.from_directory(tmp_path / "words")
    assert kept.vocabulary == encoder.vocabulary
    assert kept.name == encoder.name == "built-in encoder of 9 words, 16 numbers a text"
    torch.testing.assert_close(kept.encode(CAPTIONS), encoder.encode(CAPTIONS), rtol=0, atol=0)


def forget_a_word(path: Path) -> None:
    description = json.loads((path / "vocabulary.json").read_text())
    description["words"] = description["words"][1:]
    (path / "vocabulary.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "vocabulary.json").unlink(), "No such file"),
        (lambda path: (path / "encoder.safetensors").unlink(), "No such file"),
        (lambda path: (path / "vocabulary.json").write_text("{"), "no usable encoder"),
        (lambda path: (path / "vocabulary.json").write_text("[]"), "no usable encoder"),
        (lambda path: (path / "vocabulary.json").write_text('{"format": "other"}'), "format 'other'"),
        (lambda path: (path / "encoder.safetensors").write_bytes(b"short"), "no usable encoder"),
        (forget_a_word, "no usable encoder"),
    ],
)
def test_a_broken_encoder_is_told_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    made().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(TextError, match=message) as caught:
        BuiltInTextEncoder.from_directory(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TextError, match="cannot write the encoder"):
        made().save(tmp_path / "file")
