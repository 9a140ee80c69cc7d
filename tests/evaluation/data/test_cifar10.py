"""CIFAR-10's binary version, made record by record."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.data.cifar10 import load_cifar10
from evaluation.data.sources import open_source
from evaluation.errors import DataError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def record(label: int, red: int, green: int, blue: int) -> bytes:
    """One record: the label, then 1,024 bytes each of red, green and blue; the first red pixel is 0."""
    reds = bytes([0]) + bytes([red]) * 1023
    return struct.pack("B1024s1024s1024s", label, reds, bytes([green]) * 1024, bytes([blue]) * 1024)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    for batch in range(1, 3):
        (folder / f"data_batch_{batch}.bin").write_bytes(
            b"".join(record(number, 255, batch, 0) for number in range(5))
        )
    (folder / "test_batch.bin").write_bytes(b"".join(record(number, 255, 3, 0) for number in range(5, 10)))
    return folder


def test_every_record_is_read_in_the_order_of_the_files(cifar: Path) -> None:
    data = open_source(f"cifar10:{cifar}")
    assert data.label_names == NAMES
    assert data.images.images.shape == (15, 3, 32, 32)
    assert data.images.images.dtype == np.float32
    assert data.images.labels.tolist() == [*range(5), *range(5), *range(5, 10)]
    red, green, blue = data.images.images.transpose(1, 0, 2, 3)
    assert (red[:, 0, 0] == -1).all()
    assert (red.reshape(15, -1)[:, 1:] == 1).all()
    np.testing.assert_allclose(green[:, 5, 5], np.repeat([1, 2, 3], 5) / 127.5 - 1, atol=1e-6)
    assert (blue == -1).all()


def test_a_limit_reads_some_of_every_file(cifar: Path) -> None:
    data = load_cifar10(cifar.parent, limit=9, image_size=8, seed=1)
    assert data.images.images.shape == (9, 3, 8, 8)
    batches = np.round((data.images.images[:, 1, 0, 0] + 1) * 127.5).astype(int)
    assert set(batches.tolist()) == {1, 2, 3}
    whole = load_cifar10(cifar)
    rows = [
        int(
            np.flatnonzero(
                (whole.images.labels == label) & np.isclose(whole.images.images[:, 1, 0, 0], green)
            )[0]
        )
        for label, green in zip(data.images.labels, data.images.images[:, 1, 0, 0], strict=True)
    ]
    assert rows == sorted(set(rows))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: [file.unlink() for file in folder.glob("data*")] and (folder / "test_batch.bin").unlink(),
         "holds no data_batch"),
        (lambda folder: (folder / "batches.meta.txt").unlink(), "batches.meta.txt is missing"),
        (lambda folder: (folder / "batches.meta.txt").write_text("cat\ndog\n"), "names 2 classes"),
        (lambda folder: (folder / "data_batch_2.bin").write_bytes(record(1, 0, 0, 0)[:-1]),
         "data_batch_2.bin has 3072 bytes, no whole number of records"),
        (lambda folder: (folder / "data_batch_2.bin").write_bytes(b""), "has 0 bytes"),
        (lambda folder: (folder / "data_batch_1.bin").write_bytes(record(1, 0, 0, 0) + record(99, 0, 0, 0)),
         "record 1: label 99"),
    ],
)  # fmt: skip
def test_a_broken_cifar_is_one_clear_line(
    cifar: Path, break_it: Callable[[Path], object], words: str
) -> None:
    break_it(cifar)
    with pytest.raises(DataError, match=words) as raised:
        load_cifar10(cifar)
    assert "\n" not in str(raised.value)
