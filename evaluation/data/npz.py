"""One NumPy archive with everything: what a user brings whose data has a form of its own."""

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset
from evaluation.data.images import LabelledImages
from evaluation.data.resizing import MOST_BYTES, with_size
from evaluation.errors import DataError

_ARRAYS = (
    "images",
    "labels",
    "label_names",
    "attributes",
    "attribute_names",
    "owner",
    "owner_names",
    "group",
)
# Half a step of uint8: room for rounding when someone else scaled the values, none for a wrong range.
_RANGE_TOLERANCE = 0.5 / 127.5
# Every number up to the largest gets a name, and a network's table of labels a row.
_MOST_NAMES = 10_000


def load_npz(
    path: Path, *, image_size: int | None = None, limit: int | None = None, seed: int = 0
) -> Dataset:
    """The arrays of an `.npz`; no array of Python objects is ever read, for that would execute what the file says.

    Arrays:
        images: (N, C, H, W) or (N, H, W), as uint8 or as floats in [-1, 1].
        labels: (N,) integers from 0; optional, and 0 for all without them. label_names: (L,) text, optional.
        attributes: (N, A) in [0, 1], with attribute_names (A,) text; optional.
        owner: (N,) integers from 0, with owner_names (O,) text; optional. group: (N,) integers; optional.

    Args:
        path: the file.
        image_size: as in `open_source`.
        limit: at most so many images, drawn evenly. The file is read whole, so it must fit into the memory all the same.
        seed: of that draw.

    Raises:
        DataError: a file that is missing, damaged or too large, or arrays of another kind.
    """
    arrays = _read(path)
    images = _scaled(path, _required_images(path, arrays))
    n = len(images)
    labels = _integers(path, "labels", arrays, n)
    labels = np.zeros(n, np.int32) if labels is None else labels
    label_names = _names(path, "label_names", arrays) or _counted(path, "labels", labels, "")
    owner = _integers(path, "owner", arrays, n)
    owner_names = _names(path, "owner_names", arrays)
    if owner is not None and not owner_names:
        owner_names = _counted(path, "owner", owner, "owner-")
    attributes, attribute_names = _attributes(path, arrays, n)
    dataset = Dataset(
        name=path.stem,
        images=LabelledImages(images, labels, attributes, attribute_names),
        label_names=label_names,
        owner=owner,
        owner_names=owner_names,
        description=f"{n} images of {path.name}",
        group=_integers(path, "group", arrays, n),
    ).limited(limit, seed)
    return replace(dataset, images=with_size(dataset.images, image_size))


# What zipfile and numpy raise on damaged archives. RuntimeError is also that of an archive with a password.
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
        if size_bytes > MOST_BYTES:
            raise DataError(
                f"{path} unpacks to {size_bytes / 2**30:.0f} GiB, more than {MOST_BYTES / 2**30:.0f}: write fewer images"
            )
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in _ARRAYS if name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give an .npz file") from error
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split()) or "it ends too early"
        raise DataError(f"{path} cannot be read as .npz ({reason}): write it with numpy.savez") from error


def _required_images(path: Path, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    if "images" not in arrays:
        raise DataError(f"{path} has no array 'images': write one of (N, C, H, W)")
    images = arrays["images"]
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] > 4 or not images.size:
        raise DataError(
            f"{path}: 'images' has shape {arrays['images'].shape}, it must be (N, C, H, W) or (N, H, W), not empty"
        )
    return images


def _scaled(path: Path, images: NDArray[Any]) -> NDArray[np.float32]:
    """The images as (N, C, H, W) float32 in [-1, 1]."""
    if images.dtype == np.uint8:
        scaled: NDArray[np.float32] = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return scaled
    if images.dtype.kind != "f":
        raise DataError(f"{path}: 'images' holds {images.dtype}, give uint8 or floats in [-1, 1]")
    if not np.isfinite(images).all():
        raise DataError(f"{path}: 'images' holds values that are not finite (NaN or infinity): repair them")
    if np.abs(images).max() > 1 + _RANGE_TOLERANCE:
        raise DataError(
            f"{path}: 'images' has values from {images.min():g} to {images.max():g}, floats must lie in [-1, 1]"
        )
    if 0 <= images.min() < images.max():
        raise DataError(
            f"{path}: 'images' has values from {images.min():g} to {images.max():g}, none below 0: floats must lie in [-1, 1], "
            "where -1 is black; write 2 * images - 1"
        )
    bounded: NDArray[np.float32] = np.clip(images, -1, 1).astype(np.float32)
    return bounded


def _integers(path: Path, name: str, arrays: dict[str, NDArray[Any]], n: int) -> NDArray[np.int32] | None:
    values = arrays.get(name)
    if values is None:
        return None
    whole = values.shape == (n,) and values.dtype.kind in "iu"
    if not whole or not -(2**31) <= int(values.min()) <= int(values.max()) < 2**31:
        raise DataError(
            f"{path}: '{name}' is {values.dtype} {values.shape}, it must be ({n},) integers of 32 bits"
        )
    return values.astype(np.int32)


def _counted(path: Path, what: str, numbers: NDArray[np.int32], prefix: str) -> tuple[str, ...]:
    """Names for 0 … the largest number, where the file gives none."""
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= _MOST_NAMES:
        raise DataError(
            f"{path}: '{what}' goes from {low} to {high}, it must count from 0 and stay below {_MOST_NAMES}"
        )
    return tuple(f"{prefix}{number}" for number in range(high + 1))


def _names(path: Path, name: str, arrays: dict[str, NDArray[Any]]) -> tuple[str, ...]:
    values = arrays.get(name)
    if values is None:
        return ()
    if values.ndim != 1 or values.dtype.kind != "U":
        raise DataError(f"{path}: '{name}' is {values.dtype} {values.shape}, it must be a row of text")
    names = tuple(str(value) for value in values)
    if len(set(names)) != len(names):
        raise DataError(f"{path}: '{name}' gives a name twice: every one must be its own")
    return names


def _attributes(
    path: Path, arrays: dict[str, NDArray[Any]], n: int
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    names = _names(path, "attribute_names", arrays)
    values = arrays.get("attributes", np.zeros((n, 0), dtype=np.float32))
    if values.shape != (n, len(names)) or values.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: 'attributes' is {values.dtype} {values.shape}, it must be ({n}, {len(names)}) numbers, "
            "one column for each of 'attribute_names'"
        )
    attributes = values.astype(np.float32)
    if not ((attributes >= 0) & (attributes <= 1)).all():
        raise DataError(f"{path}: 'attributes' must lie in [0, 1]: scale them")
    return attributes, names
