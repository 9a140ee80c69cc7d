"""A convolutional classifier of the images at hand, in whose features sets of images are compared.

Inception has seen photographs and no scans, and its weights are not ours to ship. This network is trained in seconds, for
images of any size and number of channels, and is named for what it was trained on and how well it does.
"""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from evaluation.data.images import LabelledImages
from evaluation.errors import DataError

FEATURES = 64
_BATCH = 64
_STEPS = 600
_LEARNING_RATE = 2e-3
_AT_ONCE = 256
_GRID = 4
"""Height and width of the last map. It is not averaged away: where a thing lies may be what a label says."""
_FORMAT = "collafuse-recogniser-v1"


@dataclass(frozen=True, eq=False)
class Recogniser:
    """A trained network and what is known of it. It is both an `Extractor` and a `Judge`.

    labels: (K,) int32, the label of each output; shape: (C, H, W) of the images it takes.
    feature_mean, feature_scale: (64,) float64 of the features over the training images, which standardise them.
    held_out_accuracy: share in [0, 1] of the held-out images named rightly; held_out_images: how many there were.
    """

    name: str
    network: nn.Sequential
    labels: NDArray[np.int32]
    shape: tuple[int, int, int]
    feature_mean: NDArray[np.float64]
    feature_scale: NDArray[np.float64]
    held_out_accuracy: float
    held_out_images: int

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, 64) float64, standardised over the training images."""
        return (_run(self.network[:-1], self._checked(images)) - self.feature_mean) / self.feature_scale

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, K) float64, one column per entry of `labels`."""
        scores = _run(self.network, self._checked(images))
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        found: NDArray[np.float64] = odds / odds.sum(axis=1, keepdims=True)
        return found

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """(N, C, H, W) float32 in [-1, 1] → (N,) int32, the likeliest label."""
        named: NDArray[np.int32] = self.labels[_run(self.network, self._checked(images)).argmax(axis=1)]
        return named

    def _checked(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if images.shape[1:] != self.shape:
            raise DataError(
                f"images of shape {images.shape[1:]} are not for {self.name}, which takes {self.shape}: train one on these"
            )
        return images


def train_recogniser(
    train: LabelledImages, held_out: LabelledImages, *, seed: int = 0, steps: int = _STEPS
) -> Recogniser:
    """Train on some images and score on others: a few seconds for small images on one core.

    The same images, seed and machine give the same network. The caller's random generator is left as it was.

    steps: of 64 images each, with Adam and a cosine learning rate.  Raises DataError for fewer than two labels, for no
    held-out image, and for held-out images of another shape.
    """
    labels = np.unique(train.labels)
    if len(labels) < 2 or len(held_out) < 1 or held_out.images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"no recogniser from {len(train)} images of {len(labels)} label(s) with {len(held_out)} held out: "
            "give two labels or more, and held-out images of the same shape, or --extractor with a network of your own"
        )
    channels, height, width = train.images.shape[1:]
    shape = (int(channels), int(height), int(width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(shape, len(labels))
        _fit(network, train, labels, steps)
    raw = _run(network[:-1], train.images)
    guesses = labels[_run(network, held_out.images).argmax(axis=1)]
    accuracy = float((guesses == held_out.labels).mean())
    return Recogniser(
        name=f"CNN of {FEATURES} features on {len(train)} training images, seed {seed}, "
        f"right on {100 * accuracy:.1f} % of {len(held_out)} held out",
        network=network,
        labels=labels.astype(np.int32),
        shape=shape,
        feature_mean=raw.mean(axis=0),
        feature_scale=np.maximum(raw.std(axis=0), 1e-6),
        held_out_accuracy=accuracy,
        held_out_images=len(held_out),
    )


def save_recogniser(path: Path, recogniser: Recogniser) -> None:
    """Write it as safetensors, with what is known of it beside the weights. Raises DataError when that fails."""
    tensors = {name: tensor.contiguous() for name, tensor in recogniser.network.state_dict().items()}
    tensors |= {
        "feature_mean": torch.from_numpy(recogniser.feature_mean),
        "feature_scale": torch.from_numpy(recogniser.feature_scale),
        "labels": torch.from_numpy(recogniser.labels),
    }
    known = {
        "name": recogniser.name,
        "shape": recogniser.shape,
        "held_out_accuracy": recogniser.held_out_accuracy,
        "held_out_images": recogniser.held_out_images,
    }
    try:
        save_file(tensors, path, metadata={"format": _FORMAT, "recogniser": json.dumps(known)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"cannot write the recogniser to {path}: {error}; choose a writable place") from error


def load_recogniser(path: Path) -> Recogniser:
    """Read what `save_recogniser` has written. Raises DataError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # a file, no dict
        if metadata.get("format") != _FORMAT:
            raise DataError(f"{path} holds no recogniser: give a file that save_recogniser has written")
        known = json.loads(metadata["recogniser"])
        labels, mean, scale = (
            tensors.pop(name).numpy() for name in ("labels", "feature_mean", "feature_scale")
        )
        channels, height, width = (int(size) for size in known["shape"])
        network = _network((channels, height, width), len(labels))
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot read a recogniser from {path}: the file is missing or damaged; save it again"
        ) from error
    return Recogniser(
        name=str(known["name"]),
        network=network.eval(),
        labels=labels,
        shape=(channels, height, width),
        feature_mean=mean,
        feature_scale=scale,
        held_out_accuracy=float(known["held_out_accuracy"]),
        held_out_images=int(known["held_out_images"]),
    )


def _network(shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Convolutions that halve the image until it is about 4×4, then 64 features and one output per label.

    Large images are brought to 16 pixels by the first of them, which keeps training to seconds. The unit before the features is
    smooth, so that none of them is dead.
    """
    channels, height, width = shape
    stride = max(1, min(height, width) // 16)
    halvings = max(1, round(math.log2(min(height, width) / stride / _GRID)))
    widths = [min(16 * 2**level, FEATURES) for level in range(halvings + 1)]
    layers = [*_stage(channels, widths[0], stride)]
    for before, after in itertools.pairwise(widths):
        layers += _stage(before, after, 2)
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(_GRID),
        nn.Flatten(),
        nn.Linear(widths[-1] * _GRID**2, FEATURES),
        nn.SiLU(),
        nn.Linear(FEATURES, outputs),
    )


def _stage(before: int, after: int, stride: int) -> list[nn.Module]:
    """A convolution whose window overlaps its neighbours by one pixel on each side, normalised."""
    window = nn.Conv2d(before, after, stride + 2, stride=stride, padding=1)
    return [window, nn.GroupNorm(8, after), nn.SiLU()]


def _fit(network: nn.Sequential, train: LabelledImages, labels: NDArray[np.int32], steps: int) -> None:
    images = torch.from_numpy(np.ascontiguousarray(train.images, dtype=np.float32))
    targets = torch.from_numpy(np.searchsorted(labels, train.labels).astype(np.int64))
    optimiser = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    network.train()
    for _ in range(steps):
        rows = torch.randint(len(images), (_BATCH,))
        loss = nn.functional.cross_entropy(network(images[rows]), targets[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        optimiser.step()
        rate.step()
    network.eval()


def _run(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float64]:
    with torch.inference_mode():
        parts = [
            network(
                torch.from_numpy(np.ascontiguousarray(images[start : start + _AT_ONCE], dtype=np.float32))
            )
            for start in range(0, len(images), _AT_ONCE)
        ]
    found: NDArray[np.float64] = torch.cat(parts).numpy().astype(np.float64)
    return found
