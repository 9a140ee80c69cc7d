"""Images with what is known of them, and what one client holds of them: what every loader gives and every experiment takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DataError


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their labels, and whatever else is known of each.

    images: (N, C, H, W) float32 in [-1, 1]; labels: (N,) int32.
    attributes: (N, A) float32 in [0, 1], one column for each of `attribute_names`: 1 for present, 0 for absent, between
    for a measure such as a size.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]
    attributes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    attribute_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.attribute_names and not self.attributes.size:
            object.__setattr__(self, "attributes", np.zeros((len(self.images), 0), dtype=np.float32))
        if self.images.ndim != 4:
            raise DataError(f"images of shape {self.images.shape}: expected (N, C, H, W)")
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{len(self.images)} images with labels of shape {self.labels.shape}: give one label each"
            )
        if self.attributes.shape != (len(self.images), len(self.attribute_names)):
            raise DataError(
                f"{len(self.images)} images with attributes of shape {self.attributes.shape}: "
                f"give each its {len(self.attribute_names)} named ones"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.intp]) -> "LabelledImages":
        """The images at these rows, in that order. rows: (n,) int."""
        return LabelledImages(
            self.images[rows], self.labels[rows], self.attributes[rows], self.attribute_names
        )

    def attribute(self, name: str) -> NDArray[np.float32]:
        """One attribute of every image: (N,) float32. Raises DataError when there is none of that name."""
        if name not in self.attribute_names:
            known = ", ".join(self.attribute_names) or "none"
            raise DataError(f"these images have no attribute {name!r}: choose from {known}")
        column: NDArray[np.float32] = self.attributes[:, self.attribute_names.index(name)]
        return column


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds: images to train on, and images that no training may see."""

    name: str
    train: LabelledImages
    held_out: LabelledImages

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels this client holds, ascending."""
        return tuple(int(label) for label in np.unique(self.train.labels))

    @property
    def everything(self) -> LabelledImages:
        """Training and held-out images together, in that order."""
        return concatenate((self.train, self.held_out))


def concatenate(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Several sets of images as one, in the order given.

    Raises:
        DataError: no set at all, or sets with different attributes.
    """
    if len({part.attribute_names for part in parts}) != 1:
        raise DataError(
            "only images with the same attributes can be put together: give one set or more of a kind"
        )
    return LabelledImages(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.attributes for part in parts]),
        parts[0].attribute_names,
    )


def labels_like(labels: NDArray[np.int32], n: int) -> NDArray[np.int32]:
    """Labels in the proportions of those given, ascending: what to ask of a generator to be compared.

    A distance between sets with different shares of each label would measure the shares, not the images.

    labels: (N,) int32. Returns (n,) int32; largest remainders make up the total.
    """
    values, counts = np.unique(labels, return_counts=True)
    exact = counts * (n / counts.sum())
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(whole - exact, kind="stable")
    whole[order[: n - int(whole.sum())]] += 1
    return np.repeat(values, whole).astype(np.int32)


def write_npz(path: Path, data: LabelledImages) -> None:
    """Writes what `collafuse edge contribute` reads.

    An npz with `images` (N, C, H, W) float32 in [-1, 1] and `labels` (N,) int32.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, images=data.images.astype(np.float32), labels=data.labels.astype(np.int32))
    except OSError as error:
        raise DataError(
            f"cannot write the images to {path}: {error.strerror}; choose a writable place"
        ) from error
