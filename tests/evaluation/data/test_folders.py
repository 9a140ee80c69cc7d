"""Folders of pictures, made in the tests in true formats: plain ones, CelebA's and Animals with Attributes 2's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.data import resizing
from evaluation.data.awa2 import load_awa2
from evaluation.data.celeba import load_celeba
from evaluation.data.folders import load_folder
from evaluation.data.sources import divide, open_source
from evaluation.errors import DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(file: Path, colour: tuple[int, int, int] | int, size: tuple[int, int] = (12, 8)) -> Path:
    """A picture of one colour, of width × height; in the format of its suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(file, quality=95)
    return file


def colour_of(image: np.ndarray) -> list[int]:
    """The mean colour of an image, to the nearest of -1, 0 and 1 in each channel."""
    return [round(float(value)) for value in image.mean(axis=(1, 2))]


@pytest.fixture
def by_label(tmp_path: Path) -> Path:
    for number in range(4):
        paint(tmp_path / "animals" / "cat" / f"{number}.png", RED)
        paint(tmp_path / "animals" / "dog" / f"{number}.jpg", BLUE)
    (tmp_path / "animals" / "notes.txt").write_text("not a picture")
    paint(tmp_path / "animals" / ".thumbnails" / "x.png", GREEN)
    return tmp_path / "animals"


def test_a_folder_of_labels_gives_each_picture_its_folders_name(by_label: Path) -> None:
    data = load_folder(by_label)
    assert data.name == "animals"
    assert data.label_names == ("cat", "dog")
    assert data.images.images.shape == (8, 3, 8, 12)
    assert data.images.images.dtype == np.float32
    assert data.owner is None
    for image, label in zip(data.images.images, data.images.labels, strict=True):
        assert colour_of(image) == ([1, -1, -1] if label == 0 else [-1, -1, 1])


def test_a_folder_of_clients_gives_each_picture_its_owner(tmp_path: Path) -> None:
    for client, colour in (("here", 255), ("there", 5)):
        for label in ("a", "b"):
            for number in range(3):
                paint(tmp_path / client / label / f"{number}.png", colour - number - 3 * (label == "b"))
    here, there = divide(open_source(f"folder:{tmp_path}"))
    assert (here.name, there.name) == ("here", "there")
    assert here.everything.images.shape == (6, 1, 8, 12)
    assert here.everything.images.min() > 0.9
    assert there.everything.images.max() < -0.9
    assert here.labels == (0, 1)


def test_a_limit_and_a_size_are_kept_and_the_middle_is_cut_out(tmp_path: Path) -> None:
    wide = Image.new("RGB", (30, 10), RED)
    wide.paste(Image.new("RGB", (10, 10), GREEN), (10, 0))
    for number in range(6):
        (tmp_path / "x").mkdir(exist_ok=True)
        wide.save(tmp_path / "x" / f"{number}.png")
    data = open_source(f"folder:{tmp_path}", image_size=4, limit=3)
    assert data.images.images.shape == (3, 3, 4, 4)
    assert {tuple(colour_of(image)) for image in data.images.images} == {(-1, 1, -1)}


def test_a_limit_keeps_each_pictures_owner_and_label(tmp_path: Path) -> None:
    """Every picture is painted in the brightness that says whose and of which label it is."""
    for owner, client in enumerate(("here", "there")):
        for label, kind in enumerate(("a", "b")):
            for number in range(4):
                paint(tmp_path / client / kind / f"{number}.png", 100 * owner + 50 * label)
    data = load_folder(tmp_path, limit=7, seed=2)
    brightness = np.round((data.images.images[:, 0, 0, 0] + 1) * 127.5).astype(int)
    assert len(data) == 7
    assert data.owner is not None
    np.testing.assert_array_equal(100 * data.owner + 50 * data.images.labels, brightness)


def test_a_grey_picture_among_coloured_ones_is_given_three_channels(by_label: Path) -> None:
    paint(by_label / "cat" / "grey.png", 255)
    assert load_folder(by_label).images.images.shape[1] == 3


def test_pictures_of_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.fromarray(np.asarray([[0, 65535], [1, 257]], dtype=np.uint16)).save(tmp_path / "x" / "deep.png")
    image = load_folder(tmp_path).images.images[0, 0]
    np.testing.assert_allclose(image, np.asarray([[0, 65535], [1, 257]]) / 32767.5 - 1, atol=1e-6)


def cut_short(root: Path) -> object:
    file = paint(root / "a" / "big.jpg", GREEN, (200, 200))
    file.write_bytes(file.read_bytes()[:300])
    return load_folder(root)


def of_two_sizes(root: Path) -> object:
    paint(root / "a" / "1.png", RED)
    paint(root / "a" / "2.png", RED, (9, 9))
    return load_folder(root)


def at_two_depths(root: Path) -> object:
    paint(root / "a" / "1.png", RED)
    paint(root / "b" / "c" / "2.png", RED)
    return load_folder(root)


def no_picture(root: Path) -> object:
    (root / "a").mkdir()
    (root / "a" / "1.png").write_text("text")
    return load_folder(root)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda root: load_folder(root / "nowhere"), "nowhere is not a folder"),
        (load_folder, "holds no pictures"),
        (lambda root: load_folder(paint(root / "1.png", RED).parent), "lies 0 folders deep"),
        (at_two_depths, "2.png lies 2 folders deep"),
        (of_two_sizes, "2.png has 9×9 pixels, but 1.png has 12×8: give an image size"),
        (cut_short, "big.jpg cannot be read as a picture"),
        (no_picture, "1.png cannot be read as a picture"),
        (
            lambda root: load_folder(paint(root / "a" / "1.png", RED).parents[1], image_size=0),
            "image size of 0",
        ),
    ],
)
def test_a_broken_folder_is_one_clear_line(
    tmp_path: Path, load: Callable[[Path], object], words: str
) -> None:
    with pytest.raises(DataError, match=words) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_more_than_the_memory_is_meant_to_hold_is_refused_before_it_is_read(
    by_label: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resizing, "MOST_BYTES", 4 * 4 * 3 * 8 * 12)
    with pytest.raises(DataError, match=r"8 images of 3×8×12 take .*: give a limit or a smaller image size"):
        load_folder(by_label)
    assert len(load_folder(by_label, limit=4)) == 4


FACES = {"000001.jpg": (1, -1), "000002.jpg": (-1, -1), "000003.jpg": (1, 1), "000004.jpg": (-1, 1)}


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Four faces of two people in CelebA's form: smiling ones red, the others green."""
    for file, (smiling, _) in FACES.items():
        paint(tmp_path / "img_align_celeba" / file, RED if smiling == 1 else GREEN, (178, 218))
    rows = [f"{file} {smiling:2d} {young:2d}" for file, (smiling, young) in FACES.items()]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["4", "Smiling Young ", *rows]) + "\n")
    parts = [f"{file} {number}" for file, number in zip(FACES, (0, 0, 1, 2), strict=True)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return tmp_path


def test_celeba_gives_faces_with_their_attributes(celeba: Path) -> None:
    data = open_source(f"celeba:{celeba}")
    assert data.images.images.shape == (4, 3, 218, 178)
    assert data.images.attribute_names == ("Smiling", "Young")
    assert data.images.attributes.tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]
    assert data.label_names == ("not Smiling", "Smiling")
    assert data.images.labels.tolist() == [1, 0, 1, 0]
    assert [colour_of(image)[0] for image in data.images.images] == [1, -1, 1, -1]
    assert data.group is None


def test_celeba_can_be_labelled_by_another_attribute(celeba: Path) -> None:
    for data in (load_celeba(celeba, label="Young"), open_source(f"celeba:{celeba}", label="Young")):
        assert data.images.labels.tolist() == [0, 0, 1, 1]
        assert data.label_names == ("not Young", "Young")


def test_celeba_takes_one_part_of_its_own_division(celeba: Path) -> None:
    assert load_celeba(celeba, part="train").images.labels.tolist() == [1, 0]
    assert load_celeba(celeba, part="test", image_size=16).images.images.shape == (1, 3, 16, 16)


def test_celeba_keeps_one_persons_images_together(celeba: Path) -> None:
    rows = [f"{file} {person}" for file, person in zip(FACES, (7, 7, 9, 9), strict=True)]
    (celeba / "identity_CelebA.txt").write_text("\n".join(rows))
    group = load_celeba(celeba).group
    assert group is not None
    assert group.tolist() == [7, 7, 9, 9]


def rewritten(name: str, old: str, new: str) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return break_it


def extra_face(root: Path) -> None:
    paint(root / "img_align_celeba" / "000009.jpg", RED, (178, 218))


ATTRIBUTES = "list_attr_celeba.txt"


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: (root / ATTRIBUTES).unlink(), "list_attr_celeba.txt is missing"),
        (lambda root: (root / ATTRIBUTES).write_text(""), "list_attr_celeba.txt is empty"),
        (lambda root: (root / ATTRIBUTES).write_bytes(b"\xff\xfe\x00\x81"), "cannot be read as text"),
        (rewritten(ATTRIBUTES, "4\n", ""), "must begin with the number of images"),
        (rewritten(ATTRIBUTES, "4\n", "5\n"), "announces 5 images and has 4"),
        (rewritten(ATTRIBUTES, "000002.jpg -1 -1", "000002.jpg -1"), "row 4: expected a file and 2 times"),
        (rewritten(ATTRIBUTES, "000002.jpg -1 -1", "000002.jpg -1 0"), "row 4: expected a file and 2 times"),
        (rewritten(ATTRIBUTES, "Smiling", "Grinning"), "no attribute 'Smiling': choose from Grinning, Young"),
        (extra_face, "has no row for the image 000009.jpg"),
        (
            lambda root: (root / "img_align_celeba" / "000003.jpg").unlink(),
            "a row without an image .* 000003.jpg",
        ),
        (
            lambda root: (root / "identity_CelebA.txt").write_text("000001.jpg 1\n"),
            "has no row for 000002.jpg",
        ),
        (
            lambda root: (root / "identity_CelebA.txt").write_text("000001.jpg\n"),
            "row 1: expected a file and a number",
        ),
    ],
)
def test_a_broken_celeba_is_one_clear_line(
    celeba: Path, break_it: Callable[[Path], object], words: str
) -> None:
    break_it(celeba)
    with pytest.raises(DataError, match=words) as raised:
        load_celeba(celeba)
    assert "\n" not in str(raised.value)


def test_an_unknown_part_of_celeba_is_one_clear_line(celeba: Path) -> None:
    with pytest.raises(DataError, match="choose from train, valid, test"):
        load_celeba(celeba, part="all")
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match=r"list_eval_partition.txt is missing"):
        load_celeba(celeba, part="train")


@pytest.fixture
def awa2(tmp_path: Path) -> Path:
    """Two kinds of animal with three predicates in the form of Animals with Attributes 2."""
    for number in range(3):
        paint(tmp_path / "JPEGImages" / "grizzly+bear" / f"grizzly+bear_{number}.jpg", RED, (20 + number, 16))
        paint(tmp_path / "JPEGImages" / "antelope" / f"antelope_{number}.jpg", BLUE, (16, 20))
    (tmp_path / "classes.txt").write_text("     1\tgrizzly+bear\n     2\tantelope\n")
    (tmp_path / "predicates.txt").write_text("     1\tblack\n     2\tfurry\n     3\tfast\n")
    (tmp_path / "predicate-matrix-binary.txt").write_text("1 1 0\n0 1 1\n")
    return tmp_path


def test_awa2_gives_photographs_with_the_predicates_of_their_class(awa2: Path) -> None:
    data = open_source(f"awa2:{awa2}", image_size=8)
    assert data.images.images.shape == (6, 3, 8, 8)
    assert data.label_names == ("grizzly+bear", "antelope")
    assert data.images.attribute_names == ("black", "furry", "fast")
    for image, label, row in zip(
        data.images.images, data.images.labels, data.images.attributes.tolist(), strict=True
    ):
        assert colour_of(image) == ([1, -1, -1] if label == 0 else [-1, -1, 1])
        assert row == ([1, 1, 0] if label == 0 else [0, 1, 1])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: (root / "classes.txt").unlink(), "classes.txt is missing"),
        (rewritten("classes.txt", "2\t", "3\t"), "row 2: expected 2 and a name"),
        (rewritten("classes.txt", "antelope", "grizzly+bear"), "gives a name twice"),
        (rewritten("classes.txt", "antelope", "gazelle"), "antelope_0.jpg lies in no class"),
        (lambda root: (root / "classes.txt").open("a").write("3 otter\n"), "is not 3 rows"),
        (rewritten("predicate-matrix-binary.txt", "1 1 0", "1 1"), "is not 2 rows, .* of 3 predicates"),
        (rewritten("predicate-matrix-binary.txt", "1 1 0", "1 7.5 0"), "something else than 0 and 1"),
        (lambda root: paint(root / "JPEGImages" / "loose.jpg", RED), "loose.jpg lies in no class"),
    ],
)
def test_a_broken_awa2_is_one_clear_line(awa2: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(awa2)
    with pytest.raises(DataError, match=words) as raised:
        load_awa2(awa2, image_size=8)
    assert "\n" not in str(raised.value)


def test_a_class_of_awa2_without_photographs_is_one_clear_line(awa2: Path) -> None:
    for file in (awa2 / "JPEGImages" / "antelope").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no photograph of antelope \(1 classes in all\)"):
        load_awa2(awa2, image_size=8)


def test_folders_that_are_links_are_entered_and_each_but_once(by_label: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("cat", "dog"):
        (linked / name).symlink_to(by_label / name)
    assert load_folder(linked).label_names == ("cat", "dog")
    (by_label / "alias").symlink_to(by_label / "cat")
    (by_label / "cat" / "round").symlink_to(by_label)
    data = load_folder(by_label)
    assert (data.label_names, len(data)) == (("cat", "dog"), 8)


def test_a_name_that_no_folder_can_have_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="cannot be looked into: File name too long"):
        open_source("folder:" + "a" * 300)
