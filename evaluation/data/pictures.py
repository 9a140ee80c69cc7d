"""Files of pictures, found and read into one array."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from evaluation.data.places import files_under
from evaluation.data.resizing import check_memory, check_size, resized
from evaluation.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"})


def find_pictures(root: Path) -> list[Path]:
    """The pictures under a folder and its subfolders, hidden ones left out, sorted.

    Raises:
        DataError: it is no folder that can be read, or holds no picture.
    """
    files = [file for file in files_under(root, "the pictures") if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{root} holds no pictures ({', '.join(sorted(SUFFIXES))}): is it the right folder?")
    return files


def read_pictures(files: Sequence[Path], image_size: int | None) -> NDArray[np.float32]:
    """Pictures as one array: (N, C, H, W) float32 in [-1, 1], with C = 1 when all are grey, else 3.

    Args:
        files: the pictures, one or more.
        image_size: the middle square of each is brought to this many pixels a side. None leaves them as they are, and then
            they must be alike.

    Raises:
        DataError: a picture that cannot be read or has another size than the first, or more of them than the memory is
            meant to hold.
    """
    if image_size is not None:
        check_size(image_size)
    channels = 1 if all(_mode(file) in _GREY_MODES for file in files) else 3
    first = _read(files[0], channels, image_size)
    images = np.empty((len(files), *check_memory(str(files[0].parent), len(files), first.shape)), np.float32)
    for index, file in enumerate(files):
        picture = _read(file, channels, image_size)
        if picture.shape != first.shape:
            raise DataError(
                f"{file} has {picture.shape[2]}×{picture.shape[1]} pixels, but {files[0].name} has "
                f"{first.shape[2]}×{first.shape[1]}: give an image size to bring them to"
            )
        images[index] = picture
    return images


def _mode(file: Path) -> str:
    try:
        with Image.open(file) as opened:
            return opened.mode
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _read(file: Path, channels: int, image_size: int | None) -> NDArray[np.float32]:
    """One picture: (C, H, W) float32 in [-1, 1]."""
    try:
        with Image.open(file) as opened:
            if opened.mode == "F":
                raise DataError(
                    f"{file} holds floating-point pixels of unknown range: save it with 8 or 16 bits"
                )
            wide = opened.mode.startswith("I")
            picture = ImageOps.exif_transpose(opened)
            values = np.asarray(picture if wide else picture.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(file, error) from error
    if wide and not 0 <= int(values.min()) <= int(values.max()) <= 65535:
        raise DataError(f"{file} has values from {values.min()} to {values.max()}: save it with 8 or 16 bits")
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    scaled = planes.astype(np.float32) / np.float32(32767.5 if wide else 127.5) - np.float32(1)
    whole = np.broadcast_to(scaled, (channels, *scaled.shape[1:]))
    return whole if image_size is None else resized(whole[None], image_size)[0]


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"{file} cannot be read as a picture ({reason}): repair it or take it out")
