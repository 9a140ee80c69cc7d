"""Images that a client gives to calibrate and measure its head with; they stay on its machine."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError

LEAST_IMAGES = 32
"""Of which one half calibrates and the other is measured: fewer would make int8 look better than it is."""
_MOST_IMAGES = 512


def read_calibration(path: Path, image_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The first 512 images of a .npy, or of `images` in an .npz: (N, C, H, W) float32 in [-1, 1].

    They are (N, C, H, W), (N, H, W, C) or, grey, (N, H, W); uint8, or floats in [-1, 1].

    Raises:
        ExportError: unreadable, of another shape, out of range, or fewer than `LEAST_IMAGES`.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        found = loaded if isinstance(loaded, np.ndarray) else loaded["images"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ExportError(
            f"cannot read images from {path}: {error}; give a .npy, or an .npz with an array images"
        ) from error
    images: NDArray[Any] | None = (
        None if found.ndim == 0 else _channels_first(found[:_MOST_IMAGES], image_shape)
    )
    if images is None or len(images) < LEAST_IMAGES:
        raise ExportError(f"{path} does not hold {LEAST_IMAGES} or more images of {image_shape}; give others")
    if images.dtype == np.uint8:
        return np.asarray(images / 127.5 - 1, np.float32)
    if images.dtype.kind != "f" or not (np.abs(images) <= 1).all():
        raise ExportError(f"the images of {path} are neither uint8 nor floats in [-1, 1]; convert them")
    return np.asarray(images, np.float32)


def _channels_first(images: NDArray[Any], image_shape: tuple[int, int, int]) -> NDArray[Any] | None:
    channels, height, width = image_shape
    if images.shape[1:] == image_shape:
        return images
    if images.shape[1:] == (height, width, channels):
        return images.transpose(0, 3, 1, 2)
    if images.shape[1:] == (height, width) and channels == 1:
        return images[:, None]
    return None
