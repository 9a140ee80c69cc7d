"""scikit-learn's digits (1,797 real scans, 8×8) as the data of several clients who hold other digits.

Source: the test part of the UCI data set "Optical Recognition of Handwritten Digits", shipped with scikit-
learn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets
from numpy.typing import NDArray

from evaluation.errors import DataError


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images with their labels.

    images: (N, C, H, W) float32 in [-1, 1]; labels: (N,) int32.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise DataError(f"images of shape {self.images.shape}: expected (N, C, H, W)")
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{len(self.images)} images with labels of shape {self.labels.shape}: give one label each"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.intp]) -> "LabelledImages":
        """The images at these rows, in that order. rows: (n,) int."""
        return LabelledImages(self.images[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds: images to train on, and images that no training may see."""

    name: str
    train: LabelledImages
    held_out: LabelledImages

    @property
    def digits(self) -> tuple[int, ...]:
        """The labels this client holds, ascending."""
        return tuple(int(label) for label in np.unique(self.train.labels))

    @property
    def everything(self) -> LabelledImages:
        """Training and held-out images together, in that order."""
        return concatenate((self.train, self.held_out))


def concatenate(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Several sets of images as one, in the order given."""
    return LabelledImages(
        np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts])
    )


def load_digits() -> LabelledImages:
    """All 1,797 scans: images (1797, 1, 8, 8) float32 in [-1, 1], labels (1797,) int32 in 0..9."""
    scans = sklearn.datasets.load_digits()
    images = np.asarray(scans.images, dtype=np.float32)[:, None] / np.float32(8.0) - np.float32(1.0)
    return LabelledImages(images, np.asarray(scans.target, dtype=np.int32))


def by_client(
    data: LabelledImages,
    clients: Mapping[str, Sequence[int]],
    *,
    held_out_share: float = 0.2,
    seed: int = 0,
) -> tuple[ClientData, ...]:
    """Gives every client all images of its own labels, and sets a share of each label aside.

    Args:
        data: the images to divide.
        clients: client name → the labels it holds. No label may belong to two clients.
        held_out_share: share of every label that is held out, in (0, 1); at least one image of each.
        seed: of the draw. The same seed gives the same split; a label's draw does not depend on the other
        clients.

    Raises:
        DataError: a label held twice or by nobody's data, a client without labels, or a share outside (0, 1).
    """
    if not 0.0 < held_out_share < 1.0:
        raise DataError(f"held_out_share {held_out_share} is not between 0 and 1")
    _check_clients(data, clients)
    return tuple(_client(data, name, labels, held_out_share, seed) for name, labels in clients.items())


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


def _check_clients(data: LabelledImages, clients: Mapping[str, Sequence[int]]) -> None:
    known = set(np.unique(data.labels).tolist())
    holder: dict[int, str] = {}
    for name, labels in clients.items():
        if not labels:
            raise DataError(f"client {name} holds no labels: give it at least one of {sorted(known)}")
        for label in labels:
            if label in holder:
                raise DataError(
                    f"label {label} is held by both {holder[label]} and {name}: each label has one holder"
                )
            if label not in known:
                raise DataError(
                    f"client {name} is to hold label {label}, not in the data: choose from {sorted(known)}"
                )
            holder[label] = name


def _client(
    data: LabelledImages, name: str, labels: Sequence[int], held_out_share: float, seed: int
) -> ClientData:
    train: list[NDArray[np.intp]] = []
    held_out: list[NDArray[np.intp]] = []
    for label in sorted(labels):
        rows = np.flatnonzero(data.labels == label)
        if len(rows) < 2:
            raise DataError(
                f"label {label} has {len(rows)} image: two are needed, to train on one and hold one out"
            )
        rows = np.random.default_rng((seed, label)).permutation(rows)
        n_held_out = min(max(1, round(held_out_share * len(rows))), len(rows) - 1)
        held_out.append(rows[:n_held_out])
        train.append(rows[n_held_out:])
    return ClientData(
        name, data.take(np.sort(np.concatenate(train))), data.take(np.sort(np.concatenate(held_out)))
    )
