"""Reading the device's private images: a folder of pictures, or one NumPy archive.

Everything comes out as (C, H, W) float32 in [-1, 1], one channel for grey pictures and three for coloured ones.
"""

import csv
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from diffusion.privacy import image_digest
from edge_agent.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
LABELS_FILE = "labels.csv"
MAX_LABEL = 2**31 - 1
_GREY_MODES = frozenset({"1", "L", "LA"})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})
# Half a step of uint8: room for rounding when someone else scaled the values, none for a wrong range.
_RANGE_TOLERANCE = 0.5 / 127.5


@dataclass(frozen=True, eq=False)
class Image:
    """One clean image: `x0` is (C, H, W) float32 in [-1, 1]; `name` tells a person which one it is."""

    name: str
    x0: NDArray[np.float32]
    label: int | None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """All images of one source: `images` (N, C, H, W) float32 in [-1, 1], `labels` (N,) int64 or None."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None


class ImageSource(Protocol):
    """Something that knows how many images it has, and reads them one after the other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image]: ...


def open_images(path: Path, labels: Path | None = None) -> ImageSource:
    """Look at `path` and make it readable, without loading pictures yet.

    Args:
        path: a folder of pictures, searched with its subfolders, or an `.npz` with `images` (N, C, H, W) or (N, H, W), as
            floats in [-1, 1] or uint8, and optionally `labels` (N,).
        labels: a CSV file with the columns file and label, for a folder; by default its `labels.csv`. Without one, subfolders
            that are named by integers are the labels.

    Raises:
        ImageError: there is nothing to read, or the labels do not fit; while iterating, a picture cannot be read, is not
            finite, out of range, or of another shape than the first.
    """
    if path.is_dir():
        return _open_folder(path, labels)
    if not path.exists():
        raise ImageError(f"{path} does not exist: give a folder of pictures or an .npz file")
    if path.suffix != ".npz":
        raise ImageError(
            f"{path} is neither a folder nor an .npz file: put pictures into a folder and give that"
        )
    if labels is not None:
        raise ImageError(f"{path} carries its own labels, as the array 'labels': leave --labels out")
    return _open_archive(path)


def load_images(path: Path) -> ImageSet:
    """All images of `path` at once; see `open_images`."""
    images = list(open_images(path))
    numbers = [image.label for image in images if image.label is not None]
    return ImageSet(
        images=np.stack([image.x0 for image in images]),
        labels=np.array(numbers, np.int64) if numbers else None,
    )


def digests(path: Path) -> list[str]:
    """The names under which the ledger knows the images of `path`: one picture, a folder of them, or an `.npz`.

    Raises ImageError as `open_images` does.
    """
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [image_digest(_read_picture(path))]
    return [image_digest(image.x0) for image in open_images(path)]


@dataclass(frozen=True)
class _Folder:
    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Image]:
        labels: Iterable[int | None] = self.labels or (None,) * len(self.files)
        shape: tuple[int, ...] | None = None
        for file, label in zip(self.files, labels, strict=True):
            x0 = _read_picture(file)
            shape = shape or x0.shape
            if x0.shape != shape:
                raise ImageError(
                    f"{file} is {_in_words(x0.shape)}, but the first picture is {_in_words(shape)}: make them all alike"
                )
            yield Image(str(file.relative_to(self.root)), x0, label)


@dataclass(frozen=True)
class _Archive:
    path: Path
    images: NDArray[Any] = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Image]:
        for index, values in enumerate(self.images):
            label = None if self.labels is None else int(self.labels[index])
            name = f"{self.path.name}[{index}]"
            yield Image(name, _scaled(name, values if values.ndim == 3 else values[None]), label)


def _open_folder(root: Path, labels: Path | None) -> _Folder:
    files = tuple(
        sorted(
            file
            for file in root.rglob("*")
            if file.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(root).parts)
            and file.is_file()
        )
    )
    if not files:
        raise ImageError(f"{root} holds no pictures ({', '.join(sorted(SUFFIXES))}): is it the right folder?")
    table = labels or (root / LABELS_FILE if (root / LABELS_FILE).exists() else None)
    if table is not None:
        return _Folder(root, files, _labels_from_table(table, root, files))
    folders = [file.relative_to(root).parts[0] for file in files if len(file.relative_to(root).parts) > 1]
    if len(folders) == len(files) and all(name.isascii() and name.isdecimal() for name in folders):
        return _Folder(
            root, files, tuple(_checked_label(f"the folder {root / name}", name) for name in folders)
        )
    return _Folder(root, files, None)


def _labels_from_table(table: Path, root: Path, files: tuple[Path, ...]) -> tuple[int, ...]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{table} cannot be read as a CSV file of file and label: {error}") from error
    if rows and rows[0][:2] == ["file", "label"]:
        rows = rows[1:]
    if any(len(row) != 2 for row in rows):
        raise ImageError(f"{table} must have exactly two columns, file and label")
    known = {name.strip(): _checked_label(f"{table}, {name}", label) for name, label in rows}
    names = [file.relative_to(root).as_posix() for file in files]
    missing = [name for name in names if name not in known]
    if missing:
        raise ImageError(
            f"{table} has no label for {missing[0]} ({len(missing)} of {len(files)} pictures lack one)"
        )
    return tuple(known[name] for name in names)


def _checked_label(where: str, text: str) -> int:
    try:
        label = int(text)
    except ValueError as error:
        raise ImageError(f"{where}: the label {text!r} is no integer") from error
    if not 0 <= label <= MAX_LABEL:
        raise ImageError(f"{where}: the label {label} is not in 0..{MAX_LABEL}")
    return label


def _read_picture(file: Path) -> NDArray[np.float32]:
    try:
        with PillowImage.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in _SIXTEEN_BIT_MODES:
                return _scaled(str(file), np.asarray(picture, np.float64)[None] / 32767.5 - 1.0)
            if picture.mode == "F":
                raise ImageError(
                    f"{file} holds floating-point pixels of unknown range: save it with 8 or 16 bits"
                )
            values = np.asarray(picture.convert("L" if picture.mode in _GREY_MODES else "RGB"))
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{file} cannot be read as a picture ({error}): repair it or take it out") from error
    return _scaled(str(file), values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def _open_archive(path: Path) -> _Archive:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in {"images", "labels"}}
            found = archive.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(
            f"{path} cannot be read as an .npz archive ({error}): make it with numpy.savez"
        ) from error
    if "images" not in arrays:
        raise ImageError(f"{path} has no array 'images', only {', '.join(found) or 'nothing'}")
    images = arrays["images"]
    if images.ndim not in {3, 4} or images.size == 0:
        raise ImageError(
            f"{path}: 'images' has shape {images.shape}, it must be (N, C, H, W) or (N, H, W), not empty"
        )
    if images.ndim == 4 and images.shape[1] > 4:
        raise ImageError(
            f"{path}: 'images' has {images.shape[1]} channels; channels come second, as in (N, C, H, W)"
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ImageError(f"{path}: 'images' holds {images.dtype}; give uint8, or floats in [-1, 1]")
    return _Archive(path, images, _archive_labels(path, arrays.get("labels"), len(images)))


def _archive_labels(path: Path, labels: NDArray[Any] | None, count: int) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ImageError(f"{path}: 'labels' is {labels.dtype} {labels.shape}, it must be ({count},) integers")
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise ImageError(
            f"{path}: labels go from {labels.min()} to {labels.max()}, they must be in 0..{MAX_LABEL}"
        )
    return labels.astype(np.int64)


def _scaled(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """(C, H, W) float32 in [-1, 1] from uint8 or from floats that are there already."""
    if values.dtype == np.uint8:
        scaled: NDArray[np.float32] = values.astype(np.float32) / np.float32(127.5) - np.float32(1)
        return scaled
    if not np.isfinite(values).all():
        raise ImageError(
            f"{name} holds values that are not finite (NaN or infinity): repair it or take it out"
        )
    low, high = float(values.min()), float(values.max())
    if low < -1 - _RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        raise ImageError(f"{name} has values from {low:g} to {high:g}; floats must lie in [-1, 1]")
    bounded: NDArray[np.float32] = np.clip(values, -1, 1).astype(np.float32)
    return bounded


def _in_words(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height}x{width} with {channels} channel{'s' if channels > 1 else ''}"
