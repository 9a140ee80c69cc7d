from pathlib import Path

import numpy as np
import pytest

from edge_agent.release.images import open_images
from evaluation.data.digits import load_digits
from evaluation.data.images import ClientData, LabelledImages, labels_like, write_npz
from evaluation.data.partition import by_client
from evaluation.errors import DataError


def rows(data: LabelledImages) -> list[bytes]:
    return [bytes([label]) + image.tobytes() for image, label in zip(data.images, data.labels, strict=True)]


def test_digits_have_the_shape_type_and_range_that_the_system_expects() -> None:
    data = load_digits()
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == np.float32
    assert data.labels.dtype == np.int32
    assert (float(data.images.min()), float(data.images.max())) == (-1.0, 1.0)


def test_the_split_is_complete_and_disjoint(clients: tuple[ClientData, ...]) -> None:
    parts = [row for client in clients for part in (client.train, client.held_out) for row in rows(part)]
    assert sorted(parts) == sorted(rows(load_digits()))
    digits = [digit for client in clients for digit in client.labels]
    assert sorted(digits) == list(range(10))


def test_each_label_gives_up_the_same_share(clients: tuple[ClientData, ...]) -> None:
    for client in clients:
        for digit in client.labels:
            kept, aside = (int((part.labels == digit).sum()) for part in (client.train, client.held_out))
            assert aside == round(0.2 * (kept + aside))


def test_the_seed_decides_the_split() -> None:
    data, who = load_digits(), {"a": (0, 1), "b": (2,)}
    first, again, other = (by_client(data, who, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.held_out.images, again.held_out.images)
    assert rows(first.held_out) != rows(other.held_out)


@pytest.mark.parametrize(
    ("who", "share", "words"),
    [
        ({"a": (0, 1), "b": (1,)}, 0.2, "held by both a and b"),
        ({"a": (11,)}, 0.2, "label 11"),
        ({"a": ()}, 0.2, "holds no labels"),
        ({"a": (0,)}, 1.0, "held_out_share"),
    ],
)
def test_a_senseless_split_is_refused(who: dict[str, tuple[int, ...]], share: float, words: str) -> None:
    with pytest.raises(DataError, match=words):
        by_client(load_digits(), who, held_out_share=share)


def test_labels_asked_for_keep_the_proportions() -> None:
    labels = np.repeat(np.asarray([2, 5], dtype=np.int32), (30, 60))
    assert np.unique(labels_like(labels, 10), return_counts=True)[1].tolist() == [3, 7]
    assert len(labels_like(labels, 7)) == 7


def test_a_written_file_holds_the_same_images(tmp_path: Path, clients: tuple[ClientData, ...]) -> None:
    path = tmp_path / "deeper" / "north.npz"
    write_npz(path, clients[0].train)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == ["images", "labels"]
        assert (file["images"].dtype, file["labels"].dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(file["images"], clients[0].train.images)
        np.testing.assert_array_equal(file["labels"], clients[0].train.labels)


def test_a_written_file_is_what_a_device_reads(tmp_path: Path, clients: tuple[ClientData, ...]) -> None:
    path = tmp_path / "north.npz"
    write_npz(path, clients[0].held_out)
    read = list(open_images(path))
    np.testing.assert_array_equal([image.x0 for image in read], clients[0].held_out.images)
    assert [image.label for image in read] == clients[0].held_out.labels.tolist()


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path, clients: tuple[ClientData, ...]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write the images"):
        write_npz(tmp_path / "file" / "north.npz", clients[0].train)
