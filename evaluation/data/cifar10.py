"""CIFAR-10 in its binary version: records of 3,073 bytes, and nothing that could be executed.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; the file `cifar-10-binary.tar.gz` unpacked.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import LabelledImages
from evaluation.data.resizing import check_memory, with_size
from evaluation.data.tables import read_rows
from evaluation.errors import DataError

_CLASSES = 10
_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE
_META = "batches.meta.txt"


def load_cifar10(
    root: Path, *, image_size: int | None = None, limit: int | None = None, seed: int = 0
) -> Dataset:
    """All records of `data_batch_*.bin` and `test_batch.bin`, as many as are there, with the names of `batches.meta.txt`.

    Args:
        root: the folder `cifar-10-batches-bin`, or the one around it.
        image_size: as in `open_source`; images have 3×32×32 otherwise.
        limit: at most so many images, drawn evenly over the files, which are mapped and not read whole.
        seed: of that draw.

    Raises:
        DataError: files that are missing, cut short, of another data set, or without names.
    """
    inner = root / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else root
    files = [*sorted(folder.glob("data_batch_*.bin")), *sorted(folder.glob("test_batch.bin"))]
    if not files:
        raise DataError(
            f"{root} holds no data_batch_*.bin: unpack the binary version of CIFAR-10, not the Python one"
        )
    names = _names(folder / _META)
    batches = [_records(file) for file in files]
    rows = drawn(sum(len(batch) for batch in batches), limit, seed)
    side = image_size or _SIDE
    check_memory(str(folder), len(rows), (3, max(side, _SIDE), max(side, _SIDE)))
    records = _taken(batches, rows)
    images = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).astype(np.float32)
    images /= np.float32(127.5)
    images -= np.float32(1)
    return Dataset(
        name="cifar10",
        images=with_size(LabelledImages(images, records[:, 0].astype(np.int32)), image_size),
        label_names=names,
        description=f"{len(rows)} images of CIFAR-10",
    )


def _names(path: Path) -> tuple[str, ...]:
    names = tuple(" ".join(row) for row in read_rows(path))
    if len(names) != _CLASSES:
        raise DataError(f"{path} names {len(names)} classes, CIFAR-10 has {_CLASSES}: fetch it again")
    return names


def _records(file: Path) -> NDArray[np.uint8]:
    """The records of one file, mapped: (n, 3073) uint8."""
    try:
        size_bytes = file.stat().st_size
        if not size_bytes or size_bytes % _RECORD_BYTES:
            raise DataError(
                f"{file} has {size_bytes} bytes, no whole number of records of {_RECORD_BYTES}: it is cut short or of "
                "another data set, fetch it again"
            )
        records: NDArray[np.uint8] = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, _RECORD_BYTES)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    worst = int(records[:, 0].max())
    if worst >= _CLASSES:
        row = int(records[:, 0].argmax())
        raise DataError(
            f"{file}, record {row}: label {worst}, but CIFAR-10 has 0 to {_CLASSES - 1}: is it of another data set?"
        )
    return records


def _taken(batches: list[NDArray[np.uint8]], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """The records at these rows, counted through all files: (n, 3073) uint8."""
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    parts = [
        batch[rows[(rows >= start) & (rows < start + len(batch))] - start]
        for batch, start in zip(batches, starts[:-1], strict=True)
    ]
    return np.concatenate(parts)
