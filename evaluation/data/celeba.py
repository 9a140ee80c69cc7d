"""CelebA: aligned faces with forty attributes.

Source: Liu et al. 2015, "Deep Learning Face Attributes in the Wild" (arXiv 1411.7766); the aligned and cropped version.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import LabelledImages
from evaluation.data.pictures import find_pictures, read_pictures
from evaluation.data.tables import read_rows
from evaluation.errors import DataError

_IMAGES, _ATTRIBUTES = "img_align_celeba", "list_attr_celeba.txt"
_PARTITION, _IDENTITIES = "list_eval_partition.txt", "identity_CelebA.txt"
# The parts of the data set's own evaluation, as its partition file numbers them.
PARTS = ("train", "valid", "test")


def load_celeba(
    root: Path,
    *,
    label: str = "Smiling",
    part: str | None = None,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Faces of `img_align_celeba/` with the attributes of `list_attr_celeba.txt`.

    Attributes are 0 or 1, where the file has -1 or 1. Where `identity_CelebA.txt` lies beside it, the images of one person are
    a group, so that nobody is both trained on and held out.

    Args:
        root: the folder with all of these.
        label: the attribute that is the label.
        part: only "train", "valid" or "test" of `list_eval_partition.txt`; None takes all.
        image_size: as in `open_source`; images have 3×218×178 otherwise.
        limit: at most so many images, drawn evenly. Only these are read.
        seed: of that draw.

    Raises:
        DataError: files that are missing or damaged, images and attributes that do not match, or an unknown label or part.
    """
    files = find_pictures(root / _IMAGES)
    names, values = _read_attributes(root / _ATTRIBUTES)
    if label not in names:
        raise DataError(f"{root / _ATTRIBUTES} has no attribute {label!r}: choose from {', '.join(names)}")
    _check_match(root / _ATTRIBUTES, {file.name for file in files}, values)
    if part is not None:
        files = _only_part(root / _PARTITION, files, part)
    files = [files[row] for row in drawn(len(files), limit, seed)]
    attributes = (np.stack([values[file.name] for file in files]) > 0).astype(np.float32)
    return Dataset(
        name="celeba",
        images=LabelledImages(
            read_pictures(files, image_size),
            attributes[:, names.index(label)].astype(np.int32),
            attributes,
            names,
        ),
        label_names=(f"not {label}", label),
        description=f"{len(files)} faces of CelebA, labelled by {label}",
        group=_groups(root / _IDENTITIES, files),
    )


def _read_attributes(path: Path) -> tuple[tuple[str, ...], dict[str, NDArray[np.int8]]]:
    """The attributes' names, and file name → (A,) int8 of -1 and 1."""
    rows = read_rows(path)
    if len(rows) < 3 or len(rows[0]) != 1 or not rows[0][0].isdecimal():
        raise DataError(
            f"{path} must begin with the number of images and the attributes' names: fetch it again"
        )
    names = tuple(rows[1])
    values: dict[str, NDArray[np.int8]] = {}
    for number, (file, *words) in enumerate(rows[2:], start=3):
        if len(words) != len(names) or not set(words) <= {"-1", "1"}:
            raise DataError(f"{path}, row {number}: expected a file and {len(names)} times -1 or 1")
        values[file] = np.asarray(words, dtype=np.int8)
    if int(rows[0][0]) != len(rows) - 2 or len(values) != len(rows) - 2:
        raise DataError(
            f"{path} announces {rows[0][0]} images and has {len(values)}: it is cut short, fetch it again"
        )
    return names, values


def _check_match(path: Path, files: set[str], values: dict[str, NDArray[np.int8]]) -> None:
    for what, odd in (
        ("has no row for the image", files - values.keys()),
        (f"has a row without an image in {_IMAGES}/, for", values.keys() - files),
    ):
        if odd:
            raise DataError(
                f"{path} {what} {min(odd)} ({len(odd)} in all): images and attributes must be of one download"
            )


def _only_part(path: Path, files: list[Path], part: str) -> list[Path]:
    if part not in PARTS:
        raise DataError(f"CelebA has no part {part!r}: choose from {', '.join(PARTS)}")
    numbers = _numbers(path, files)
    wanted = [file for file, number in zip(files, numbers, strict=True) if number == PARTS.index(part)]
    if not wanted:
        raise DataError(f"{path} puts no image into {part}: choose another part")
    return wanted


def _groups(path: Path, files: list[Path]) -> NDArray[np.int32] | None:
    if not path.exists():
        return None
    return np.asarray(_numbers(path, files), dtype=np.int32)


def _numbers(path: Path, files: list[Path]) -> list[int]:
    """What a table of file and number says of each file."""
    table: dict[str, int] = {}
    for number, row in enumerate(read_rows(path), start=1):
        if len(row) != 2 or not row[1].isdecimal():
            raise DataError(f"{path}, row {number}: expected a file and a number, found {' '.join(row)!r}")
        table[row[0]] = int(row[1])
    missing = [file.name for file in files if file.name not in table]
    if missing:
        raise DataError(f"{path} has no row for {missing[0]} ({len(missing)} in all): fetch it again")
    return [table[file.name] for file in files]
