import numpy as np
import pytest

from evaluation.data.dataset import Dataset
from evaluation.data.sources import PARTITIONS, SOURCES, divide, open_source
from evaluation.errors import DataError


@pytest.fixture(scope="module")
def phantoms() -> Dataset:
    return open_source("phantoms32", limit=300)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("digits", (1, 8, 8)),
        ("patches", (3, 32, 32)),
        ("phantoms32", (1, 32, 32)),
        ("phantoms64", (1, 64, 64)),
    ],
)
def test_what_is_generated_opens_by_name(spec: str, shape: tuple[int, ...]) -> None:
    data = open_source(spec, limit=50, seed=1)
    assert data.name == spec
    assert data.images.images.shape == (50, *shape)
    smaller = open_source(spec, limit=50, seed=1, image_size=16)
    assert smaller.images.images.shape == (50, shape[0], 16, 16)
    assert np.abs(smaller.images.images).max() <= 1.0


def test_resized_digits_keep_their_brightness() -> None:
    small, large = open_source("digits", limit=40), open_source("digits", limit=40, image_size=16)
    np.testing.assert_allclose(small.images.images.mean(), large.images.images.mean(), atol=0.02)
    np.testing.assert_array_equal(small.images.labels, large.images.labels)


@pytest.mark.parametrize("spec", ["pictures", "digits:8", "phantoms16", ""])
def test_an_unknown_source_is_answered_with_those_there_are(spec: str) -> None:
    with pytest.raises(DataError, match="no source of images is called") as raised:
        open_source(spec)
    assert all(source in str(raised.value) for source in SOURCES)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_that_leaves_nothing_is_refused(limit: int) -> None:
    for spec in ("digits", "patches", "phantoms32"):
        with pytest.raises(DataError):
            open_source(spec, limit=limit)


def test_images_go_to_their_owners_where_there_are_any_and_else_by_labels(phantoms: Dataset) -> None:
    assert [client.name for client in divide(phantoms)] == ["north", "east", "south"]
    assert [client.labels for client in divide(open_source("digits"))] == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]


@pytest.mark.parametrize(
    ("partition", "clients", "names"),
    [
        ("labels", 2, ["client-1", "client-2"]),
        ("attribute:lesion", None, ["lesion-0", "lesion-1"]),
        ("attribute:contrast", 2, None),
        ("dirichlet:0.5", 4, ["client-1", "client-2", "client-3", "client-4"]),
        ("size:0.6,0.3,0.1", None, ["client-1", "client-2", "client-3"]),
    ],
)
def test_a_partition_is_what_its_name_says(
    phantoms: Dataset, partition: str, clients: int | None, names: list[str] | None
) -> None:
    parts = divide(phantoms, partition, clients, seed=1, held_out_share=0.25)
    if names is not None:
        assert [part.name for part in parts] == names
    sizes = np.asarray([[len(part.train), len(part.held_out)] for part in parts])
    assert sizes.sum() == len(phantoms)
    assert sizes[:, 1].sum() / sizes.sum() == pytest.approx(0.25, abs=0.03)
    if partition == "size:0.6,0.3,0.1":
        assert sizes.sum(axis=1).tolist() == [180, 90, 30]
    if partition == "attribute:contrast":
        assert sizes.sum(axis=1).tolist() == [150, 150]


@pytest.mark.parametrize("partition", ["region", "owner:north", "dirichlet", "size:", "labels:3"])
def test_an_unknown_partition_is_answered_with_those_there_are(phantoms: Dataset, partition: str) -> None:
    with pytest.raises(DataError, match="no partition is called") as raised:
        divide(phantoms, partition)
    assert all(known in str(raised.value) for known in PARTITIONS)


@pytest.mark.parametrize(
    ("partition", "clients", "words"),
    [
        ("dirichlet:a", None, "not made of numbers"),
        ("dirichlet:0.3,0.4", None, "it takes 1"),
        ("attribute:age", None, "no attribute 'age'"),
        ("owner", 5, "has 3 clients, not 5"),
        ("attribute:lesion", 3, "has 2 clients, not 3"),
        ("labels", 0, "ask for 1 or more"),
    ],
)
def test_a_partition_that_does_not_fit_is_one_clear_line(
    phantoms: Dataset, partition: str, clients: int | None, words: str
) -> None:
    with pytest.raises(DataError, match=words) as raised:
        divide(phantoms, partition, clients)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("clients", [None, 2, 4])
def test_a_measure_that_many_images_lack_gives_those_to_one_client(clients: int | None) -> None:
    phantoms = open_source("phantoms32", limit=300)
    parts = divide(phantoms, "attribute:size", clients)
    assert len(parts) == (clients or 3)
    without, *rest = [client.everything.attribute("size") for client in parts]
    assert without.max() == 0
    assert min(values.min() for values in rest) > 0
    assert np.ptp([len(values) for values in rest]) <= 1
