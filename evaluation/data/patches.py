"""Colour patches of scikit-learn's two sample photographs: real texture in two places, without a download.

Source: `china.jpg` and `flower.jpg`, 427×640, shipped with scikit-learn under a Creative Commons licence.
"""

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset
from evaluation.data.images import LabelledImages
from evaluation.errors import DataError

PHOTOGRAPHS = ("china", "flower")
PATCHES = 2000
PATCH_SIZE = 32
# A photograph is cut into 6 × 8 regions of 71×80 pixels, and no patch crosses from one into another.
_ROWS, _COLUMNS = 6, 8


def load_patches(n: int = PATCHES, *, size: int = PATCH_SIZE, seed: int = 0) -> Dataset:
    """Square patches drawn evenly over both photographs, half of them from each.

    Images are (n, 3, size, size) float32 in [-1, 1]. The owners are the photographs. Labels say which photograph a patch is
    from and whether it is smooth or rough (its mean gradient lies below or above the median of that photograph): sky, wall and
    petal differ from ornament and leaf, so that a small classifier can tell them, and each owner holds labels that the other
    lacks. Attributes: `brightness`, the mean over the pixels; `roughness`, the share of that photograph's patches that are
    smoother.

    Patches overlap, but only within a region; the regions are the groups, so that a patch held out shares no pixel with one
    trained on.

    Raises:
        DataError: fewer than 2 patches, or patches that do not fit into a region.
    """
    largest = 427 // _ROWS
    if n < len(PHOTOGRAPHS) or not 4 <= size <= largest:
        raise DataError(
            f"{n} patches of {size}×{size}: ask for {len(PHOTOGRAPHS)} or more, of 4 to {largest} pixels"
        )
    owner = (np.arange(n) * len(PHOTOGRAPHS) // n).astype(np.int32)
    parts = [
        _patches(name, int((owner == index).sum()), size, np.random.default_rng((seed, index)))
        for index, name in enumerate(PHOTOGRAPHS)
    ]
    pixels, region, roughness = (np.concatenate(column) for column in zip(*parts, strict=True))
    brightness = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / np.float32(255)
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - np.float32(1)
    labels = 2 * owner + (roughness >= 0.5)
    return Dataset(
        name="patches",
        images=LabelledImages(
            np.ascontiguousarray(images),
            labels.astype(np.int32),
            np.stack([brightness, roughness], axis=1).astype(np.float32),
            ("brightness", "roughness"),
        ),
        label_names=tuple(f"{name} {kind}" for name in PHOTOGRAPHS for kind in ("smooth", "rough")),
        owner=owner,
        owner_names=PHOTOGRAPHS,
        description=f"{size}×{size} colour patches of two photographs, smooth and rough",
        group=(owner * _ROWS * _COLUMNS + region).astype(np.int32),
    )


def _patches(
    name: str, n: int, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.float64]]:
    """Patches of one photograph: pixels (n, size, size, 3), the region of each (n,), how rough each is in [0, 1] (n,)."""
    photograph: NDArray[np.uint8] = sklearn.datasets.load_sample_image(f"{name}.jpg")
    height, width = photograph.shape[0] // _ROWS, photograph.shape[1] // _COLUMNS
    region = rng.integers(_ROWS * _COLUMNS, size=n)
    top = region // _COLUMNS * height + rng.integers(height - size + 1, size=n)
    left = region % _COLUMNS * width + rng.integers(width - size + 1, size=n)
    windows = np.lib.stride_tricks.sliding_window_view(photograph, (size, size), axis=(0, 1))
    pixels = np.ascontiguousarray(windows[top, left].transpose(0, 2, 3, 1))
    # What counts as rough is the photograph's own, not the draw's: the same patch has the same label under every seed.
    roughness = _window_means(_gradient(photograph), size)
    every = np.sort(roughness[::8, ::8].ravel())
    return pixels, region, np.searchsorted(every, roughness[top, left]) / len(every)


def _gradient(photograph: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The length of the gradient of the grey photograph at every pixel: (H, W) float64."""
    across, along = np.gradient(photograph.mean(axis=2))
    length: NDArray[np.float64] = np.hypot(across, along)
    return length


def _window_means(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The mean over every size×size window, by its upper left corner: (H-size+1, W-size+1) float64."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    total = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    means: NDArray[np.float64] = total / size**2
    return means
