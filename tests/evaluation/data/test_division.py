"""Properties of every way to divide images: nothing lost, nothing twice, no group torn, no client empty."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import ClientData, LabelledImages
from evaluation.data.partition import by_attribute, by_labels, by_owner, by_size, dirichlet
from evaluation.errors import DataError

Divide = Callable[[Dataset, int], tuple[ClientData, ...]]
WAYS: dict[str, Divide] = {
    "owner": lambda data, seed: by_owner(data, seed=seed),
    "labels": lambda data, seed: by_labels(data, 2, seed=seed),
    "attribute": lambda data, seed: by_attribute(data, "measure", (0.5,), seed=seed),
    "size": lambda data, seed: by_size(data, (3, 2, 1), seed=seed),
    "dirichlet": lambda data, seed: dirichlet(data, 1.0, 3, seed=seed),
}


def made(n: int, *, seed: int = 0, group_size: int | None = None) -> Dataset:
    """n images of one pixel, whose value is their number; 4 labels, 3 owners, an attribute, perhaps groups."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(n, dtype=np.float32)[:, None, None, None]
    measure = rng.random((n, 1)).astype(np.float32)
    images = LabelledImages(numbers, (rng.permutation(n) % 4).astype(np.int32), measure, ("measure",))
    group = None if group_size is None else rng.permutation(np.arange(n) // group_size).astype(np.int32)
    owner = (np.arange(n) % 3 if group is None else group % 3).astype(np.int32)
    return Dataset("made", images, ("a", "b", "c", "d"), owner, ("x", "y", "z"), group=group)


def numbers(images: LabelledImages) -> NDArray[np.intp]:
    """The images' own numbers, as `made` wrote them into their pixels."""
    return images.images[:, 0, 0, 0].astype(np.intp)


@pytest.mark.parametrize("way", WAYS)
@given(n=st.integers(60, 200), seed=st.integers(0, 1000), group_size=st.sampled_from([None, 1, 2, 3]))
@settings(max_examples=25, deadline=None)
def test_every_image_is_somewhere_once_and_nobody_is_left_empty(
    way: str, n: int, seed: int, group_size: int | None
) -> None:
    data = made(n, seed=seed, group_size=group_size)
    clients = WAYS[way](data, seed)
    everywhere = np.concatenate([numbers(part) for c in clients for part in (c.train, c.held_out)])
    assert sorted(everywhere.tolist()) == list(range(n))
    assert all(len(client.train) and len(client.held_out) for client in clients)
    for client in clients:
        np.testing.assert_array_equal(client.train.labels, data.images.labels[numbers(client.train)])


@pytest.mark.parametrize("way", WAYS)
@given(n=st.integers(80, 200), seed=st.integers(0, 1000), group_size=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_no_group_is_trained_on_by_one_client_and_held_out_by_any(
    way: str, n: int, seed: int, group_size: int
) -> None:
    data = made(n, seed=seed, group_size=group_size)
    clients = WAYS[way](data, seed)
    assert data.group is not None
    trained_on = {int(g) for c in clients for g in data.group[numbers(c.train)]}
    held_out = {int(g) for c in clients for g in data.group[numbers(c.held_out)]}
    assert not trained_on & held_out


@given(
    n=st.integers(60, 300),
    shares=st.lists(st.floats(0.2, 1.0), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_sizes_are_as_asked_to_one_image(n: int, shares: list[float], seed: int) -> None:
    clients = by_size(made(n), shares, seed=seed)
    sizes = [len(client.everything) for client in clients]
    np.testing.assert_allclose(sizes, n * np.asarray(shares) / sum(shares), atol=1.0)


@given(seed=st.integers(0, 99), share=st.floats(0.1, 0.5))
@settings(max_examples=25, deadline=None)
def test_every_client_gives_up_the_same_share_of_every_label(seed: int, share: float) -> None:
    for client in by_owner(made(240), held_out_share=share, seed=seed):
        both = np.bincount(client.everything.labels, minlength=4)
        aside = np.bincount(client.held_out.labels, minlength=4)
        np.testing.assert_allclose(aside, share * both, atol=0.5001)


def test_whole_groups_come_near_to_the_share_held_out() -> None:
    clients = by_owner(made(600, group_size=5), held_out_share=0.25, seed=1)
    for client in clients:
        assert len(client.held_out) / len(client.everything) == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("way", WAYS)
def test_no_copy_of_a_training_image_is_held_out(way: str) -> None:
    """Every image is there twice, and nobody said that the two belong together."""
    once = made(60).take(np.arange(60))
    clients = WAYS[way](once.take(np.tile(np.arange(60), 2)), 0)
    trained, held_out = (
        {int(number) for client in clients for number in numbers(getattr(client, part))}
        for part in ("train", "held_out")
    )
    assert not trained & held_out
    assert len(trained | held_out) == 60


def test_copies_of_one_image_are_no_data() -> None:
    alike = made(60).take(np.zeros(60, np.intp))
    with pytest.raises(DataError, match="would hold 1 image with its copies: two are needed"):
        by_owner(alike)


def test_clients_by_labels_share_none() -> None:
    held = [set(client.labels) for client in by_labels(made(120), 3)]
    assert sorted(label for labels in held for label in labels) == [0, 1, 2, 3]


def test_clients_by_attribute_lie_on_their_side_of_the_threshold() -> None:
    low, high = by_attribute(made(120), "measure", (0.3,))
    assert low.everything.attribute("measure").max() < 0.3 <= high.everything.attribute("measure").min()
    assert (low.name, high.name) == ("measure-below-0.3", "measure-from-0.3")


def test_a_value_at_the_threshold_belongs_above_it() -> None:
    images = LabelledImages(
        np.arange(4, dtype=np.float32)[:, None, None, None],
        np.zeros(4, np.int32),
        np.asarray([[0.0], [0.4], [0.5], [0.5]], np.float32),
        ("x",),
    )
    _, high = by_attribute(Dataset("made", images, ("a",)), "x", (0.5,))
    assert high.everything.attribute("x").tolist() == [0.5, 0.5]


@pytest.mark.parametrize("group_size", [None, 3])
def test_the_least_a_client_can_hold_is_divided_too(group_size: int | None) -> None:
    """Two images or groups each: rounding alone would hold none of them out."""
    clients = by_owner(made(6 * (group_size or 1), group_size=group_size), held_out_share=0.05)
    assert all(len(client.train) == len(client.held_out) for client in clients)


def test_groups_that_lie_across_clients_so_that_none_can_be_held_out_are_refused() -> None:
    """Each of three clients holds two of three groups: whatever is held out, one is left with nothing."""
    labels = np.asarray([0, 1, 1, 2, 2, 0], np.int32)
    images = LabelledImages(np.zeros((6, 1, 1, 1), np.float32), labels)
    group = np.asarray([0, 0, 1, 1, 2, 2], np.int32)
    with pytest.raises(DataError, match="without tearing groups"):
        by_labels(Dataset("made", images, ("a", "b", "c"), group=group), 3)


def skew(alpha: float) -> float:
    """How far the clients' shares of the labels lie from those of all images, in total variation, mean over draws."""
    data = made(600)
    overall = np.bincount(data.images.labels, minlength=4) / len(data)
    distances = []
    for seed in range(8):
        for client in dirichlet(data, alpha, 3, seed=seed):
            labels = client.everything.labels
            distances.append(np.abs(np.bincount(labels, minlength=4) / len(labels) - overall).sum() / 2)
    return float(np.mean(distances))


def test_a_small_alpha_makes_clients_differ_and_a_large_one_does_not() -> None:
    assert skew(0.2) > 0.35
    assert skew(1000.0) < 0.05


@pytest.mark.parametrize("way", WAYS)
def test_the_seed_decides_the_division(way: str) -> None:
    data = made(120)
    first, again, other = (
        [numbers(part).tolist() for c in WAYS[way](data, seed) for part in (c.train, c.held_out)]
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("divide", "words"),
    [
        (lambda: by_owner(Dataset("made", made(9).images, ("a", "b", "c", "d"))), "does not say whose"),
        (lambda: by_labels(made(60), 5), "4 labels, too few for 5 clients"),
        (lambda: by_labels(made(60), 0), "ask for 1 or more"),
        (lambda: by_attribute(made(60), "colour"), "no attribute 'colour'"),
        (lambda: by_attribute(made(60), "measure", (0.6, 0.5)), "do not ascend"),
        (lambda: by_attribute(made(60), "measure", (2.0,)), "would hold 0 images"),
        (lambda: by_size(made(60), (1.0, 0.0)), "a number above 0"),
        (lambda: by_size(made(60), (1.0, 0.001)), "client-2 of made would hold 0 images"),
        (lambda: dirichlet(made(60), 0.0, 3), "alpha 0.0 is not above 0"),
        (lambda: dirichlet(made(8), 0.01, 5), "give a larger alpha or fewer clients"),
        (lambda: by_owner(made(60), held_out_share=1.0), "held_out_share 1.0"),
        (lambda: by_owner(made(3)), "would hold 1 image:"),
        (lambda: by_size(made(60, group_size=30), (1, 1)), "1 group of images"),
        (lambda: by_labels(made(60, group_size=60), 2), "1 group of images"),
    ],
)
def test_a_senseless_division_is_one_clear_line(divide: Callable[[], object], words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        divide()
    assert "\n" not in str(raised.value)


def test_a_limit_draws_evenly_and_keeps_the_order() -> None:
    rows = drawn(1000, 100, seed=3)
    assert len(np.unique(rows)) == 100
    assert (np.diff(rows) > 0).all()
    assert 350 < rows.mean() < 650
    np.testing.assert_array_equal(drawn(5, 100, seed=3), np.arange(5))


def test_a_dataset_that_contradicts_itself_is_refused() -> None:
    images = made(4).images
    with pytest.raises(DataError, match="labels go from 0 to 3, but 2 have a name"):
        Dataset("made", images, ("a", "b"))
    with pytest.raises(DataError, match="owners of shape"):
        Dataset("made", images, ("a", "b", "c", "d"), np.zeros(3, np.int32), ("x",))
    with pytest.raises(DataError, match="groups of shape"):
        Dataset("made", images, ("a", "b", "c", "d"), group=np.zeros(3, np.int32))


def test_a_limited_dataset_keeps_what_is_known_of_each_image() -> None:
    whole = made(90, group_size=3)
    some = whole.limited(20, seed=4)
    rows = numbers(some.images)
    np.testing.assert_array_equal(some.owner, np.asarray(whole.owner)[rows])
    np.testing.assert_array_equal(some.group, np.asarray(whole.group)[rows])
    np.testing.assert_array_equal(some.images.labels, whole.images.labels[rows])
