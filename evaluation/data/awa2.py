"""Animals with Attributes 2: photographs of fifty kinds of animal, and what each kind is like.

Source: Xian et al. 2018, "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly" (arXiv 1707.00600).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import LabelledImages
from evaluation.data.pictures import find_pictures, read_pictures
from evaluation.data.tables import read_names, read_rows
from evaluation.errors import DataError

_IMAGES, _CLASSES = "JPEGImages", "classes.txt"
_PREDICATES, _MATRIX = "predicates.txt", "predicate-matrix-binary.txt"


def load_awa2(
    root: Path, *, image_size: int | None = None, limit: int | None = None, seed: int = 0
) -> Dataset:
    """The photographs of `JPEGImages/`class`/`, labelled in the order of `classes.txt`.

    Attributes are the predicates of an image's class, 0 or 1: what is true of the kind, and not always to be seen.

    Args:
        root: the folder with `JPEGImages/` and the three tables.
        image_size: as in `open_source`. The photographs differ in size, so that one is needed.
        limit: at most so many images, drawn evenly. Only these are read.
        seed: of that draw.

    Raises:
        DataError: files that are missing or damaged, or folders, classes and predicates that do not match.
    """
    classes, predicates = read_names(root / _CLASSES), read_names(root / _PREDICATES)
    matrix = _read_matrix(root / _MATRIX, len(classes), len(predicates))
    files = find_pictures(root / _IMAGES)
    label = _labels(root, files, classes)
    rows = drawn(len(files), limit, seed)
    return Dataset(
        name="awa2",
        images=LabelledImages(
            read_pictures([files[row] for row in rows], image_size),
            label[rows],
            matrix[label[rows]],
            predicates,
        ),
        label_names=classes,
        description=f"{len(rows)} photographs of Animals with Attributes 2",
    )


def _read_matrix(path: Path, n_classes: int, n_predicates: int) -> NDArray[np.float32]:
    """Which predicates hold of which class: (classes, predicates) float32 of 0 and 1."""
    rows = read_rows(path)
    if len(rows) != n_classes or {len(row) for row in rows} != {n_predicates}:
        raise DataError(
            f"{path} is not {n_classes} rows, one for each class, of {n_predicates} predicates: fetch the three tables again"
        )
    if not {word for row in rows for word in row} <= {"0", "1"}:
        raise DataError(f"{path} holds something else than 0 and 1: give the binary matrix")
    return np.asarray(rows, dtype=np.float32)


def _labels(root: Path, files: list[Path], classes: tuple[str, ...]) -> NDArray[np.int32]:
    """The class of every photograph, by its folder: (n,) int32."""
    number = {name: index for index, name in enumerate(classes)}
    folders = [file.relative_to(root / _IMAGES).parts[0] for file in files]
    for file, folder in zip(files, folders, strict=True):
        if folder not in number:
            raise DataError(
                f"{file} lies in no class of {root / _CLASSES}: photographs and tables must be of one download"
            )
    empty = sorted(set(classes) - set(folders))
    if empty:
        raise DataError(
            f"{root / _IMAGES} has no photograph of {empty[0]} ({len(empty)} classes in all): unpack the archive again"
        )
    return np.asarray([number[folder] for folder in folders], dtype=np.int32)
