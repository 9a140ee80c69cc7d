"""Pictures in folders: one for each label, or one for each client with one for each label inside."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import LabelledImages
from evaluation.data.pictures import find_pictures, read_pictures
from evaluation.errors import DataError


def load_folder(
    root: Path, *, image_size: int | None = None, limit: int | None = None, seed: int = 0
) -> Dataset:
    """The pictures of `root`/label/… or of `root`/client/label/…, whichever it is.

    Labels are counted over the sorted names of their folders. The client's folders are the owners; without them nobody owns
    the images.

    Raises:
        DataError: no pictures, pictures at different depths, or one that cannot be read.
    """
    files = find_pictures(root)
    folders = [file.relative_to(root).parts[:-1] for file in files]
    depth = len(folders[0])
    for file, parts in zip(files, folders, strict=True):
        if len(parts) not in {1, 2} or len(parts) != depth:
            raise DataError(
                f"{file} lies {len(parts)} folders deep in {root}: put all pictures into label/ or all into client/label/"
            )
    rows = drawn(len(files), limit, seed)
    label, label_names = _numbered([parts[-1] for parts in folders])
    owner, owner_names = _numbered([parts[0] for parts in folders]) if depth == 2 else (None, ())
    images = read_pictures([files[row] for row in rows], image_size)
    return Dataset(
        name=root.name or str(root),
        images=LabelledImages(images, label[rows]),
        label_names=label_names,
        owner=None if owner is None else owner[rows],
        owner_names=owner_names,
        description=f"{len(rows)} of {len(files)} pictures in {len(label_names)} folders of labels",
    )


def _numbered(words: list[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Each word's place among all of them, sorted: (n,) int32; and those words."""
    names, index = np.unique(np.asarray(words), return_inverse=True)
    return index.astype(np.int32), tuple(str(name) for name in names)
