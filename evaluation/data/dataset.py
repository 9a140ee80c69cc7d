"""A whole source of images: what its labels are called, whose each image is, and which images belong together."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.data.images import LabelledImages
from evaluation.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a loader gives.

    images: the images with their labels and attributes; label l is called `label_names[l]`.
    owner: (N,) int32, whose each image is by nature (a clinic, a photograph, a folder), an index of `owner_names`; None
    where the source does not say.
    group: (N,) int32, what each image was taken from (a patient, a region of a photograph). Images of one group are so
    alike that no split may train on one and hold out another; None where every image stands for itself.
    """

    name: str
    images: LabelledImages
    label_names: tuple[str, ...]
    owner: NDArray[np.int32] | None = None
    owner_names: tuple[str, ...] = ()
    description: str = ""
    group: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if not len(self.images):
            raise DataError(f"{self.name} holds no images: nothing can be learnt from it")
        self._check_index("labels", self.images.labels, self.label_names)
        if self.owner is not None:
            self._check_index("owners", self.owner, self.owner_names)
        if self.group is not None and self.group.shape != (len(self.images),):
            raise DataError(
                f"{self.name}: {len(self.images)} images with groups of shape {self.group.shape}: give one each"
            )

    def _check_index(self, what: str, index: NDArray[np.int32], names: tuple[str, ...]) -> None:
        if index.shape != (len(self.images),):
            raise DataError(
                f"{self.name}: {len(self.images)} images with {what} of shape {index.shape}: give one each"
            )
        if int(index.min()) < 0 or int(index.max()) >= len(names):
            raise DataError(
                f"{self.name}: {what} go from {index.min()} to {index.max()}, but {len(names)} have a name"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.intp]) -> "Dataset":
        """The images at these rows, in that order, under the same names. rows: (n,) int."""
        return Dataset(
            self.name,
            self.images.take(rows),
            self.label_names,
            None if self.owner is None else self.owner[rows],
            self.owner_names,
            self.description,
            None if self.group is None else self.group[rows],
        )

    def labelled_by(self, attribute: str) -> "Dataset":
        """The same with an attribute for the label: 0 below a half, 1 from there on.

        Raises:
            DataError: no attribute of that name.
        """
        labels = (self.images.attribute(attribute) >= 0.5).astype(np.int32)
        images = LabelledImages(
            self.images.images, labels, self.images.attributes, self.images.attribute_names
        )
        return replace(self, images=images, label_names=(f"not {attribute}", attribute))

    def limited(self, limit: int | None, seed: int) -> "Dataset":
        """At most `limit` of the images, drawn evenly and kept in their order; all of them when it is None."""
        return self.take(drawn(len(self), limit, seed))


def drawn(n: int, limit: int | None, seed: int) -> NDArray[np.intp]:
    """Which of n images to keep when only `limit` may be: (min(n, limit),) int, ascending.

    Drawn evenly, for many formats keep one class after the other: the first ones would be all of a kind.

    Raises:
        DataError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} images leaves none: give 1 or more")
    if limit is None or limit >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng((seed, n)).choice(n, limit, replace=False))
