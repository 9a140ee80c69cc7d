"""What is made here instead of downloaded: patches of photographs, and brain phantoms."""

import numpy as np
import pytest
import sklearn.datasets
from sklearn.neural_network import MLPClassifier

from evaluation.data.dataset import Dataset
from evaluation.data.images import LabelledImages, concatenate
from evaluation.data.partition import by_owner
from evaluation.data.patches import load_patches
from evaluation.data.phantoms import CLINICS, LABEL_NAMES, WORDINGS, caption, captions, load_phantoms
from evaluation.errors import DataError


@pytest.fixture(scope="module")
def patches() -> Dataset:
    return load_patches(800, seed=2)


@pytest.fixture(scope="module")
def phantoms() -> Dataset:
    return load_phantoms(1200, seed=2)


def held_out_accuracy(dataset: Dataset) -> float:
    """How often a small classifier names a held-out image's label."""
    clients = by_owner(dataset, seed=0)
    train = concatenate([client.train for client in clients])
    held_out = concatenate([client.held_out for client in clients])
    model = MLPClassifier((48,), max_iter=25, random_state=0)
    model.fit(train.images.reshape(len(train), -1), train.labels)
    return float(model.score(held_out.images.reshape(len(held_out), -1), held_out.labels))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("which", "chance", "learnt"), [("patches", 0.35, 0.65), ("phantoms", 0.5, 0.8)])
def test_the_labels_can_be_learnt_and_shuffled_ones_cannot(
    which: str, chance: float, learnt: float, request: pytest.FixtureRequest
) -> None:
    data: Dataset = request.getfixturevalue(which)
    assert held_out_accuracy(data) > learnt
    labels = np.random.default_rng(0).permutation(data.images.labels)
    shuffled = LabelledImages(data.images.images, labels)
    assert data.owner is not None
    assert (
        held_out_accuracy(
            Dataset("shuffled", shuffled, data.label_names, data.owner, data.owner_names, group=data.group)
        )
        < chance
    )


@pytest.mark.parametrize(("which", "channels"), [("patches", 3), ("phantoms", 1)])
def test_images_have_the_shape_type_and_range_that_the_system_expects(
    which: str, channels: int, request: pytest.FixtureRequest
) -> None:
    data: Dataset = request.getfixturevalue(which)
    images = data.images.images
    assert images.shape[1:] == (channels, 32, 32)
    assert images.dtype == np.float32
    assert -1.0 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1.0
    assert images.flags.c_contiguous


@pytest.mark.parametrize("load", [load_patches, load_phantoms])
def test_the_seed_decides_every_pixel(load: object) -> None:
    assert callable(load)
    first, again, other = (load(40, seed=seed).images.images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_patches_are_cut_from_the_photographs_and_held_out_ones_share_no_pixel(patches: Dataset) -> None:
    """Finds every patch again in its photograph, and marks there what is trained on and what is held out."""
    for index, client in enumerate(by_owner(patches, seed=4)):
        assert client.name == patches.owner_names[index]
        photograph = sklearn.datasets.load_sample_image(f"{client.name}.jpg")
        windows = np.lib.stride_tricks.sliding_window_view(photograph, (32, 32), axis=(0, 1))
        first = {
            window.tobytes(): place
            for place, window in zip(
                np.ndindex(396, 609), windows[:, :, :, 0].reshape(-1, 3 * 32), strict=True
            )
        }
        seen = np.zeros(photograph.shape[:2], dtype=np.int8)
        for mark, part in ((1, client.train), (2, client.held_out)):
            for image in part.images:
                pixels = np.round((image + 1) * 127.5).astype(np.uint8)
                top, left = first[pixels[:, 0].tobytes()]
                np.testing.assert_array_equal(windows[top, left], pixels)
                seen[top : top + 32, left : left + 32] |= mark
        assert not (seen == 3).any()
        assert (seen == 1).any()
        assert (seen == 2).any()


def test_the_photographs_hold_different_labels(patches: Dataset) -> None:
    assert [client.labels for client in by_owner(patches)] == [(0, 1), (2, 3)]
    assert np.bincount(patches.images.labels).min() > 100
    rough = patches.images.attribute("roughness") >= 0.5
    np.testing.assert_array_equal(rough, patches.images.labels % 2 == 1)


def test_phantoms_carry_what_their_label_says(phantoms: Dataset) -> None:
    lesion, side_right, size = (phantoms.images.attribute(name) for name in ("lesion", "side_right", "size"))
    assert phantoms.label_names == LABEL_NAMES
    np.testing.assert_array_equal(phantoms.images.labels, lesion + side_right)
    assert ((size > 0) == (lesion == 1)).all()
    assert not (side_right * (1 - lesion)).any()


def test_a_lesion_is_bright_on_its_own_side_and_the_larger_the_brighter(phantoms: Dataset) -> None:
    images = phantoms.images.images[:, 0]
    surplus = images[:, :, 16:].sum(axis=(1, 2)) - images[:, :, :16].sum(axis=(1, 2))
    means = [float(surplus[phantoms.images.labels == label].mean()) for label in range(3)]
    assert means[1] < means[0] - 5
    assert means[2] > means[0] + 5
    right, size = phantoms.images.labels == 2, phantoms.images.attribute("size")
    small, large = surplus[right & (size < 1 / 3)], surplus[right & (size > 2 / 3)]
    assert large.mean() > 2 * small.mean() > 0


def test_even_a_small_lesion_is_seen_in_a_picture_of_few_pixels() -> None:
    images = load_phantoms(1200, size=16, seed=2).images
    brightest = np.sort(images.images.reshape(len(images), -1), axis=1)[:, -2:].mean(axis=1)
    lesion, size = images.attribute("lesion") > 0.5, images.attribute("size")
    small, none = brightest[lesion & (size < 1 / 3)], brightest[~lesion]
    # How often a slice with a small lesion is brighter than one without: 0.94 where lesions may be less than a pixel.
    assert (small[:, None] > none).mean() > 0.97


def test_the_clinics_differ_in_prevalence_contrast_and_noise(phantoms: Dataset) -> None:
    clients = by_owner(phantoms)
    assert [client.name for client in clients] == [clinic.name for clinic in CLINICS]
    for client, clinic in zip(clients, CLINICS, strict=True):
        everything = client.everything
        assert len(everything) / len(phantoms) == pytest.approx(clinic.share, abs=0.01)
        assert everything.attribute("lesion").mean() == pytest.approx(clinic.prevalence, abs=0.08)
        assert everything.attribute("contrast").mean() == pytest.approx(np.mean(clinic.contrast), abs=0.03)
        # The corners show air: of a magnitude of pure noise, sigma sqrt(pi / 2) is the mean.
        air = (everything.images[:, 0, :4, :4].mean() + 1) / 2
        assert air == pytest.approx(clinic.noise * np.sqrt(np.pi / 2), rel=0.05)


def test_phantoms_are_drawn_at_64_pixels_too() -> None:
    data = load_phantoms(6, size=64, seed=1)
    assert data.images.images.shape == (6, 1, 64, 64)
    assert data.name == "phantoms64"


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ((0, 0, 0, 0.5), "no lesion"),
        ((1, 0, 0.1, 0.5), "a small lesion on the left"),
        ((1, 1, 0.5, 0.5), "a medium lesion on the right"),
        ((1, 1, 1.0, 0.5), "a large lesion on the right"),
    ],
)
def test_a_caption_says_what_there_is(attributes: tuple[float, ...], words: str) -> None:
    given = np.asarray(attributes, dtype=np.float32)
    assert caption(given) == words
    others = {caption(given, wording=wording) for wording in range(WORDINGS)}
    assert len(others) == WORDINGS
    if attributes[0]:
        _, size, _, _, _, side = words.split()
        assert all(size in other.split() or f"{size}," in other for other in others)
        assert all(side in other.split() for other in others)


def test_captions_come_in_all_wordings_and_by_seed(phantoms: Dataset) -> None:
    first, again, other = (captions(phantoms.images, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    healthy = {words for words, label in zip(first, phantoms.images.labels, strict=True) if label == 0}
    assert len(healthy) == WORDINGS


def test_what_cannot_be_generated_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="ask for 2 or more, of 4 to 71 pixels"):
        load_patches(10, size=72)
    with pytest.raises(DataError, match="of 16 pixels or more"):
        load_phantoms(10, size=8)
    with pytest.raises(DataError, match="attributes of shape"):
        caption(np.zeros(3, np.float32))
