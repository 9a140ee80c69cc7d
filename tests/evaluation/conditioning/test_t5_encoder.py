"""The loader of a T5, on a tiny one with random weights saved as transformers saves them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")

from evaluation.conditioning.t5_encoder import T5TextEncoder  # noqa: E402
from evaluation.errors import TextError  # noqa: E402
from tests.evaluation.tiny_t5 import hide_transformers, save_tiny_t5  # noqa: E402

WORDS = ("a", "small", "large", "lesion", "on", "the", "left", "right", "no")
TEXTS = ("a small lesion on the left", "a large lesion on the left", "no lesion")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"), WORDS, signs=())


@pytest.fixture(scope="module")
def encoder(saved: Path) -> T5TextEncoder:
    return T5TextEncoder.from_directory(saved)


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "t5-copy"))


def test_a_text_is_the_mean_of_its_own_tokens_as_transformers_computes_them(
    encoder: T5TextEncoder, saved: Path
) -> None:
    model = transformers.T5ForConditionalGeneration.from_pretrained(saved).get_encoder().eval()
    numbers = [[3, 4, 6, 7, 8, 9, 1], [3, 5, 6, 7, 8, 9, 1], [11, 6, 1]]
    with torch.no_grad():
        expected = torch.stack(
            [model(torch.tensor([row])).last_hidden_state[0].mean(dim=0) for row in numbers]
        )
    encoded = encoder.encode(TEXTS)
    assert encoded.shape == (3, encoder.size) == (3, 16)
    assert encoded.dtype == torch.float32
    assert not encoded.requires_grad
    torch.testing.assert_close(encoded, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoded[0], encoded[1])


def test_a_text_is_encoded_alike_in_any_company(encoder: T5TextEncoder) -> None:
    many = encoder.encode([*TEXTS] * 15)
    torch.testing.assert_close(many[:3], many[42:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(many[2:3], encoder.encode(["no lesion"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("texts", "message"), [([], "no text"), (["a", "  "], "2 of 2 is empty")])
def test_texts_that_say_nothing_are_refused(encoder: T5TextEncoder, texts: list[str], message: str) -> None:
    with pytest.raises(TextError, match=message):
        encoder.encode(texts)


def test_a_text_that_would_be_cut_off_is_refused(encoder: T5TextEncoder) -> None:
    assert encoder.encode(["lesion " * 511]).isfinite().all()
    with pytest.raises(TextError, match="513 tokens"):
        encoder.encode(["lesion", "lesion " * 512])


def test_a_word_that_would_go_unread_is_refused_by_name(encoder: T5TextEncoder) -> None:
    with pytest.raises(TextError, match="no token for tumour, héad in 'no tumour on the héad'"):
        encoder.encode(["no lesion", "no tumour on the héad"])


def remove(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).unlink()


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", {"format": "pt"})

    return damage


def with_config(**changed: object) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        config = json.loads((path / "config.json").read_text()) | changed
        (path / "config.json").write_text(json.dumps(config))

    return damage


def pickle_only(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def shorten(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:300])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "there is no directory"),
        (remove("config.json"), "no config.json"),
        (remove("model.safetensors"), "no model.safetensors: save"),
        (pickle_only, "a pickle only, which could run code"),
        (remove("tokenizer.json"), "neither tokenizer.json nor spiece.model"),
        (lambda path: (path / "config.json").write_text("{"), "describes no model"),
        (lambda path: (path / "config.json").write_text("[]"), "describes no model"),
        (with_config(model_type="bert"), "type 'bert'"),
        (with_config(vocab_size=64), "cannot be read"),
        (shorten("model.safetensors"), "cannot be read"),
        (shorten("tokenizer.json"), "cannot be read"),
        (
            with_weights(lambda weights: weights.pop("encoder.block.1.layer.0.SelfAttention.q.weight")),
            r"lack encoder.block.1.layer.0.SelfAttention.q.weight and 0 more",
        ),
    ],
)
def test_a_broken_directory_is_told_in_one_line(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy)
    with pytest.raises(TextError, match=message) as caught:
        T5TextEncoder.from_directory(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    small = transformers.T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(small).save_pretrained(copy)
    with pytest.raises(TextError, match="knows 12 tokens, its model 8"):
        T5TextEncoder.from_directory(copy)


def test_code_that_comes_with_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "run"
    (copy / "trap.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass T: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        facts = json.loads((copy / name).read_text())
        facts["auto_map"] = {
            "AutoModel": "trap.T",
            "AutoConfig": "trap.T",
            "AutoTokenizer": ["trap.T", "trap.T"],
        }
        (copy / name).write_text(json.dumps(facts))
    assert T5TextEncoder.from_directory(copy).encode(["no lesion"]).shape == (1, 16)
    assert not marker.exists()


def test_without_transformers_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_transformers(monkeypatch)
    with pytest.raises(TextError, match=r"collafuse-edge\[text\]"):
        T5TextEncoder.from_directory(saved)
