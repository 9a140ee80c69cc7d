"""Arrays of images brought to one square size, and kept to a size that fits the memory."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.data.images import LabelledImages
from evaluation.errors import DataError

# What all images of a source may take as float32.
MOST_BYTES = 8 * 2**30


def resized(images: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The middle square of each image at another size: (N, C, H, W) → (N, C, size, size), float32 within the same range.

    Pillow's bilinear filter, which averages over all pixels that become one; channel by channel, as floats.

    Raises:
        DataError: a size below 1.
    """
    check_size(size)
    n, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    planes = images[:, :, top : top + side, left : left + side].reshape(-1, side, side)
    small = np.empty((len(planes), size, size), dtype=np.float32)
    for plane, out in zip(planes, small, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        out[:] = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return small.reshape(n, channels, size, size)


def with_size(data: LabelledImages, size: int | None) -> LabelledImages:
    """The same images, labels and attributes at another size; as they are when it is None."""
    if size is None:
        return data
    return LabelledImages(resized(data.images, size), data.labels, data.attributes, data.attribute_names)


def check_size(size: int) -> None:
    """Raises DataError for a size that no image can have."""
    if size < 1:
        raise DataError(f"an image size of {size} pixels: give 1 or more")


def check_memory(source: str, n: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Gives `shape`, the (C, H, W) of one image, back when n such images fit into `MOST_BYTES`.

    Raises:
        DataError: they do not.
    """
    needed_bytes = 4 * n * math.prod(shape)
    if needed_bytes > MOST_BYTES:
        raise DataError(
            f"{source}: {n} images of {'×'.join(map(str, shape))} take {needed_bytes / 2**30:.0f} GiB, more than "
            f"{MOST_BYTES / 2**30:.0f}: give a limit or a smaller image size"
        )
    return shape
