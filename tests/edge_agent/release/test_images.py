from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from edge_agent.errors import ImageError
from edge_agent.release.images import load_images, open_images


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(values).save(path)
    return path


def grey(value: int, size: int = 8) -> np.ndarray:
    return np.full((size, size), value, np.uint8)


def test_grey_pictures_have_one_channel_and_values_from_minus_one_to_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey(0))
    save(tmp_path / "b.png", grey(255))

    loaded = load_images(tmp_path)

    assert loaded.images.shape == (2, 1, 8, 8)
    assert loaded.images.dtype == np.float32
    assert (loaded.images[0] == -1).all()
    assert (loaded.images[1] == 1).all()
    assert loaded.labels is None


def test_coloured_pictures_have_channels_first(tmp_path: Path) -> None:
    values = np.zeros((4, 6, 3), np.uint8)
    values[..., 1] = 255
    save(tmp_path / "green.png", values)

    image = load_images(tmp_path).images[0]

    assert image.shape == (3, 4, 6)
    assert [float(channel.mean()) for channel in image] == [-1, 1, -1]


def test_sixteen_bit_pictures_keep_their_depth(tmp_path: Path) -> None:
    PillowImage.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "deep.png")

    np.testing.assert_allclose(load_images(tmp_path).images[0, 0, 0], [-1, 1 / 65535, 1], atol=1e-7)


def test_subfolders_named_by_numbers_are_labels(tmp_path: Path) -> None:
    save(tmp_path / "3" / "a.png", grey(1))
    save(tmp_path / "7" / "b.png", grey(2))

    labels = load_images(tmp_path).labels

    assert labels is not None
    assert labels.tolist() == [3, 7]


def test_a_table_of_labels_wins(tmp_path: Path) -> None:
    save(tmp_path / "3" / "a.png", grey(1))
    save(tmp_path / "7" / "b.png", grey(2))
    (tmp_path / "labels.csv").write_text("file,label\n3/a.png,1\n7/b.png,0\n")

    labels = load_images(tmp_path).labels

    assert labels is not None
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_an_archive_gives_the_same_images_in_every_dtype(tmp_path: Path, dtype: type) -> None:
    pixels = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
    values = pixels if dtype is np.uint8 else (pixels.astype(dtype) / 127.5 - 1).astype(dtype)
    np.savez(tmp_path / "data.npz", images=values, labels=np.array([2, 0, 1]))

    loaded = load_images(tmp_path / "data.npz")

    np.testing.assert_allclose(loaded.images[:, 0], pixels / 127.5 - 1, atol=1e-6)
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [2, 0, 1]


def test_pictures_are_read_one_by_one_and_counted_before(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", grey(number))

    source = open_images(tmp_path)

    assert len(source) == 3
    assert [image.name for image in source] == ["0.png", "1.png", "2.png"]


def nothing_there(path: Path) -> Path:
    return path / "nowhere"


def empty_folder(path: Path) -> Path:
    return path


def other_file(path: Path) -> Path:
    (path / "notes.txt").write_text("hello")
    return path / "notes.txt"


def broken_picture(path: Path) -> Path:
    (path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return path


def different_shapes(path: Path) -> Path:
    save(path / "a.png", grey(1))
    save(path / "b.png", grey(1, size=9))
    return path


def missing_label(path: Path) -> Path:
    save(path / "a.png", grey(1))
    (path / "labels.csv").write_text("file,label\nb.png,1\n")
    return path


def label_in_words(path: Path) -> Path:
    save(path / "a.png", grey(1))
    (path / "labels.csv").write_text("a.png,seven\n")
    return path


def archive(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        np.savez(path / "data.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for one of them
        return path / "data.npz"

    return make


def damaged_archive(path: Path) -> Path:
    file = archive(images=np.zeros((2, 4, 4), np.float32))(path)
    file.write_bytes(file.read_bytes()[:60])
    return file


BAD = np.full((2, 4, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing_there, "does not exist"),
        (empty_folder, "holds no pictures"),
        (other_file, "neither a folder nor an .npz"),
        (broken_picture, "a.png cannot be read as a picture"),
        (different_shapes, "b.png is 9x9 with 1 channel, but the first picture is 8x8"),
        (missing_label, r"no label for a.png \(1 of 1 pictures lack one\)"),
        (label_in_words, "the label 'seven' is no integer"),
        (archive(images=BAD), r"data.npz\[0\] holds values that are not finite"),
        (archive(images=np.full((2, 4, 4), 1.5, np.float32)), "values from 1.5 to 1.5; floats must lie in"),
        (archive(images=np.zeros((4, 4), np.float32)), r"shape \(4, 4\), it must be"),
        (archive(images=np.zeros((0, 4, 4), np.float32)), "not empty"),
        (archive(images=np.zeros((2, 8, 8, 5), np.float32)), "8 channels; channels come second"),
        (archive(images=np.zeros((2, 4, 4), np.int64)), "holds int64"),
        (archive(pictures=np.zeros((2, 4, 4), np.float32)), "no array 'images', only pictures"),
        (
            archive(images=np.zeros((2, 4, 4), np.float32), labels=np.zeros(3, np.int64)),
            r"must be \(2,\) integers",
        ),
        (archive(images=np.zeros((2, 4, 4), np.float32), labels=np.array([0, -1])), "labels go from -1 to 0"),
        (damaged_archive, "cannot be read as an .npz archive"),
    ],
)
def test_what_cannot_be_used_is_explained_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        load_images(make(tmp_path))
    assert "\n" not in str(caught.value)
