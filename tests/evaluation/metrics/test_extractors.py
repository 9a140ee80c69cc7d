"""Extractors: a network trained on the data at hand, and the files of others, as their formats really are."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from evaluation.data.digits import load_digits
from evaluation.data.images import LabelledImages
from evaluation.errors import DataError
from evaluation.metrics.extractors import Extractor, Judge, open_extractor
from evaluation.metrics.recogniser import FEATURES, Recogniser, save_recogniser, train_recogniser


@pytest.fixture(scope="module")
def halves() -> tuple[LabelledImages, LabelledImages]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits))
    return digits.take(order[:1437]), digits.take(order[1437:])


@pytest.fixture(scope="module")
def recogniser(halves: tuple[LabelledImages, LabelledImages]) -> Recogniser:
    return train_recogniser(*halves, steps=300)


@pytest.fixture
def unworried() -> Iterator[None]:
    """PyTorch warns whoever makes an archive that there is something newer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


class LikeInception(torch.nn.Module):
    """Called as NVIDIA's archive is, it gives what it was fed: the mean byte of each channel, and the size."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if not return_features or img.dtype != torch.uint8:
            return torch.zeros([img.shape[0], 1008])
        side = torch.full([img.shape[0], 1], float(img.shape[2]))
        return torch.cat([img.float().mean([2, 3]), side], dim=1)


class Plain(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.mean([2, 3]).reshape(img.shape[0], -1, 1, 1)


class OneNumber(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.mean()


class FiveChannels(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(5, 2, 1)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return self.layer(img)  # type: ignore[no-any-return]


def archive_of(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def onnx_of(
    path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT, *, over: tuple[int, ...] = (2, 3)
) -> Path:
    """A model that takes the mean over some axes, of every channel if not told otherwise."""
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast"], ["features"], axes=over, keepdims=len(over) == 2),
    ]
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def flat(*values: float, channels: int = 3, side: int = 6) -> np.ndarray:
    """One image for each value, which it is all of."""
    return np.stack([np.full((channels, side, side), value, dtype=np.float32) for value in values])


def test_a_recogniser_names_held_out_digits_and_says_how_well(
    recogniser: Recogniser, halves: tuple[LabelledImages, LabelledImages]
) -> None:
    held_out = halves[1]
    assert isinstance(recogniser, Extractor)
    assert isinstance(recogniser, Judge)
    assert recogniser.held_out_accuracy > 0.97
    assert recogniser.held_out_accuracy == (recogniser.predict(held_out.images) == held_out.labels).mean()
    assert recogniser.held_out_images == 360
    assert f"{100 * recogniser.held_out_accuracy:.1f} % of 360" in recogniser.name
    chances = recogniser.probabilities(held_out.images)
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    np.testing.assert_array_equal(
        recogniser.labels[chances.argmax(axis=1)], recogniser.predict(held_out.images)
    )


def test_its_features_are_standardised_over_the_training_images(
    recogniser: Recogniser, halves: tuple[LabelledImages, LabelledImages]
) -> None:
    features = recogniser.features(halves[0].images)
    assert (features.shape, features.dtype) == ((1437, FEATURES), np.dtype(np.float64))
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(features.std(axis=0), 1.0, atol=1e-9)


def test_labels_without_meaning_are_not_learned(halves: tuple[LabelledImages, LabelledImages]) -> None:
    """The control that must fail: held-out labels drawn at random are named no better than by chance."""
    rng = np.random.default_rng(1)
    train, held_out = (
        LabelledImages(part.images, rng.permutation(part.labels)) for part in (halves[0], halves[1])
    )
    assert train_recogniser(train, held_out, steps=100).held_out_accuracy < 0.2


def test_a_seed_gives_one_network_and_leaves_the_generator_alone(
    halves: tuple[LabelledImages, LabelledImages],
) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (train_recogniser(*halves, seed=seed, steps=5) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    images = halves[1].images
    np.testing.assert_array_equal(first.features(images), again.features(images))
    assert not np.array_equal(first.features(images), other.features(images))


def test_it_learns_where_a_thing_lies() -> None:
    """A label may say no more than left or right, which an average over the image would not know."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.1, (300, 1, 32, 32)).astype(np.float32)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    for image, label in zip(images, labels, strict=True):
        image[0, 12:20, 6 + 16 * label : 10 + 16 * label] += 1
    data = LabelledImages(images, labels)
    rows = np.arange(300)
    made = train_recogniser(data.take(rows[:200]), data.take(rows[200:]), steps=40)
    assert made.held_out_accuracy > 0.95


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 5, 7), (1, 28, 28), (3, 64, 48)])
def test_it_takes_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    data = LabelledImages(np.zeros((8, *shape), np.float32), np.arange(8, dtype=np.int32) % 2)
    assert train_recogniser(data, data, steps=1).features(data.images).shape == (8, FEATURES)


def test_it_is_the_same_after_it_was_kept(
    recogniser: Recogniser, halves: tuple[LabelledImages, LabelledImages], tmp_path: Path
) -> None:
    save_recogniser(tmp_path / "digits.safetensors", recogniser)
    opened = open_extractor(tmp_path / "digits.safetensors")
    assert isinstance(opened, Recogniser)
    images = halves[1].images[:50]
    np.testing.assert_array_equal(opened.features(images), recogniser.features(images))
    np.testing.assert_array_equal(opened.predict(images), recogniser.predict(images))
    assert (opened.name, opened.held_out_accuracy) == (recogniser.name, recogniser.held_out_accuracy)


def test_images_of_another_shape_and_data_without_two_labels_are_refused(
    recogniser: Recogniser, halves: tuple[LabelledImages, LabelledImages], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="train one on these"):
        recogniser.features(flat(0.0))
    same = halves[0].take(np.flatnonzero(halves[0].labels == 3))
    with pytest.raises(DataError, match="two labels or more"):
        train_recogniser(same, halves[1])
    with pytest.raises(DataError, match="writable place"):
        save_recogniser(tmp_path / "none" / "x.safetensors", recogniser)


def test_an_archive_like_inception_is_given_bytes_and_asked_for_features(
    tmp_path: Path, unworried: None
) -> None:
    opened = open_extractor(archive_of(LikeInception(), tmp_path / "inception.pt"))
    assert opened.name == "TorchScript inception.pt"
    features = opened.features(flat(-1.0, 0.0, 1.0, 1.5))
    np.testing.assert_array_equal(features[:, 0], [0, 128, 255, 255])
    np.testing.assert_array_equal(features[:, 3], 6)
    assert (features.shape, features.dtype) == ((4, 4), np.dtype(np.float64))


def test_grey_images_are_repeated_and_many_are_taken_in_parts(tmp_path: Path, unworried: None) -> None:
    opened = open_extractor(archive_of(Plain(), tmp_path / "plain.torchscript"))
    values = np.linspace(-1, 1, 150)
    features = opened.features(flat(*values, channels=1))
    np.testing.assert_allclose(features, np.repeat(values[:, None], 3, axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_an_onnx_model_is_given_what_its_input_says(tmp_path: Path, kind: int) -> None:
    opened = open_extractor(onnx_of(tmp_path / "features.onnx", ["N", 3, 12, 12], kind))
    features = opened.features(flat(-1.0, 1.0, channels=1))
    expected = [-1.0, 1.0] if kind == TensorProto.FLOAT else [0.0, 255.0]
    np.testing.assert_allclose(features, np.repeat(np.array(expected)[:, None], 3, axis=1), atol=1e-5)


def test_files_that_are_no_extractors_are_told_apart_in_a_line(tmp_path: Path, unworried: None) -> None:
    paths = {
        name: tmp_path / name
        for name in ("gone.pt", "x.pkl", "text.pt", "bare.pt", "text.onnx", "x.safetensors")
    }
    for name in ("x.pkl", "text.pt", "text.onnx", "x.safetensors"):
        paths[name].write_text("no network")
    torch.save({"weight": torch.zeros(2)}, paths["bare.pt"])
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, other)
    expected = {
        paths["gone.pt"]: "there is no file",
        paths["x.pkl"]: "no extractor by its name",
        paths["text.pt"]: "no TorchScript archive",
        paths["bare.pt"]: "lacks the network",
        paths["text.onnx"]: "no ONNX model",
        paths["x.safetensors"]: "missing or damaged",
        other: "holds no recogniser",
        onnx_of(tmp_path / "flat.onnx", ["N", 12], over=(1,)): "one input",
    }
    for path, words in expected.items():
        with pytest.raises(DataError, match=words) as refused:
            open_extractor(path)
        assert "\n" not in str(refused.value)
        assert path.name in str(refused.value)


def test_networks_that_give_no_features_are_told_apart_in_a_line(tmp_path: Path, unworried: None) -> None:
    scripts = {"one.pt": (OneNumber(), "one vector of features"), "five.pt": (FiveChannels(), "cannot take")}
    for name, (module, words) in scripts.items():
        with pytest.raises(DataError, match=words) as refused:
            open_extractor(archive_of(module, tmp_path / name)).features(flat(0.0, 1.0))
        assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="one vector of features"):
        open_extractor(onnx_of(tmp_path / "one.onnx", ["N", 3, "H", "W"], over=(0, 1, 2, 3))).features(
            flat(0.0)
        )
    with pytest.raises(DataError, match="free batch axis"):
        open_extractor(onnx_of(tmp_path / "batch.onnx", [7, 3, "H", "W"])).features(flat(0.0))
    with pytest.raises(DataError, match="images of 1 or 3"):
        open_extractor(onnx_of(tmp_path / "rgb.onnx", ["N", 3, "H", "W"])).features(flat(0.0, channels=2))
