"""MRI volumes, made with nibabel: as BraTS lays them out, and plain ones."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.data.nifti import load_nifti
from evaluation.data.phantoms import LABEL_NAMES
from evaluation.data.sources import divide, open_source
from evaluation.errors import DataError

# Right, front, top: a head is wider from back to front, and has 10 slices.
SHAPE = (20, 24, 10)


def head(seed: int = 0) -> NDArray[np.float32]:
    """A box of tissue in air, 500 to 1500 bright, brighter in front."""
    values = np.zeros(SHAPE, dtype=np.float32)
    rng = np.random.default_rng(seed)
    values[2:18, 2:22] = 500 + 900 * np.linspace(0, 1, 20)[None, :, None] + rng.uniform(0, 100, (16, 20, 10))
    return values


def write(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)  # type: ignore[no-untyped-call]
    nibabel.save(image, path)
    return path


def marks(side: str | None) -> NDArray[np.uint8]:
    """A tumour of 4×5 voxels on slices 4 to 6, to the patient's right or left."""
    seg = np.zeros(SHAPE, dtype=np.uint8)
    if side is not None:
        start = 13 if side == "right" else 3
        seg[start : start + 4, 10:15, 4:7] = 4
    return seg


def patient(root: Path, name: str, side: str | None, seed: int = 0) -> Path:
    folder = root / name
    write(folder / f"{name}_flair.nii.gz", head(seed))
    write(folder / f"{name}_t1ce.nii.gz", -head(seed) + 4000)
    write(folder / f"{name}_seg.nii.gz", marks(side))
    return folder


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    for number, side in enumerate(("left", "right", None, "right"), start=1):
        patient(tmp_path, f"BraTS20_Training_{number:03d}", side, number)
    return tmp_path


def test_slices_stand_upright_with_the_patients_right_on_the_right(tmp_path: Path) -> None:
    values = head()
    values[15:18] += 3000
    write(tmp_path / "one.nii.gz", values)
    data = load_nifti(tmp_path, slices=(3, 3))
    assert data.images.images.shape == (1, 1, 24, 20)
    picture = data.images.images[0, 0]
    assert picture.min() == -1.0
    assert picture.max() == 1.0
    assert picture[:, 15:18].mean() > picture[:, 3:6].mean() + 0.5
    assert picture[3:8, 5:12].mean() > picture[17:21, 5:12].mean() + 0.1


def test_a_volume_stored_in_another_direction_gives_the_same_slices(tmp_path: Path) -> None:
    write(tmp_path / "ras" / "one.nii.gz", head())
    turned = np.ascontiguousarray(head()[::-1].transpose(1, 0, 2))
    affine = np.asarray([[0, -1, 0, 19], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    write(tmp_path / "other" / "one.nii", turned, affine)
    first, second = (load_nifti(tmp_path / name).images.images for name in ("ras", "other"))
    np.testing.assert_array_equal(first, second)


def test_the_scale_is_the_volumes_own_percentiles(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", head())
    write(tmp_path / "b.nii.gz", head() * 7)
    dazzled = head()
    dazzled[2, 2, 5] = 1e6
    write(tmp_path / "c.nii.gz", dazzled)
    one, same, odd = load_nifti(tmp_path, slices=(5, 5)).images.images
    np.testing.assert_allclose(one, same, atol=1e-5)
    np.testing.assert_allclose(one[0, :20, 4:], odd[0, :20, 4:], atol=0.02)
    tissue = head()[head() > 0]
    low, high = np.percentile(tissue, (0.5, 99.5))
    expected = np.clip((head()[:, ::-1, 5].T - low) / (high - low) * 2 - 1, -1, 1)
    np.testing.assert_allclose(one[0], expected, atol=1e-5)


def test_brats_gives_what_the_maps_say(brats: Path) -> None:
    data = open_source(f"nifti:{brats}@4-7", image_size=16)
    assert data.images.images.shape == (16, 1, 16, 16)
    assert data.label_names == LABEL_NAMES
    assert data.images.labels.tolist() == [1, 1, 1, 0, 2, 2, 2, 0, 0, 0, 0, 0, 2, 2, 2, 0]
    size = data.images.attribute("size")
    np.testing.assert_allclose(size[:4], [20 / 320, 20 / 320, 20 / 320, 0], atol=0.005)
    assert data.images.attribute("side_right").tolist() == [0] * 4 + [1] * 3 + [0] * 5 + [1] * 3 + [0]
    assert data.group is not None
    assert data.group.tolist() == np.repeat([0, 1, 2, 3], 4).tolist()


def test_scans_asked_for_become_channels_in_that_order(brats: Path) -> None:
    data = load_nifti(brats, modalities=("t1ce", "flair"), slices=(5, 5))
    t1ce, flair = data.images.images[0]
    assert data.images.images.shape == (4, 2, 24, 20)
    assert np.corrcoef(t1ce[3:20, 4:16].ravel(), flair[3:20, 4:16].ravel())[0, 1] < -0.9


def test_slices_are_taken_by_share_of_the_height_or_by_index(tmp_path: Path) -> None:
    values = head() + np.where(head() > 0, 100 * np.arange(10, dtype=np.float32), 0)
    write(tmp_path / "one.nii.gz", values)
    everything = open_source(f"nifti:{tmp_path}@0.0-1.0").images.images
    assert len(everything) == 10
    np.testing.assert_array_equal(open_source(f"nifti:{tmp_path}@2-4").images.images, everything[2:5])
    np.testing.assert_array_equal(open_source(f"nifti:{tmp_path}").images.images, everything[4:7])


def test_one_patients_slices_stay_on_one_side(brats: Path) -> None:
    data = open_source(f"nifti:{brats}@0-9")
    (client,) = divide(data, "size:1", held_out_share=0.25, seed=2)
    sides = [
        {image.tobytes() for image in part.images.reshape(len(part), -1)}
        for part in (client.train, client.held_out)
    ]
    assert data.group is not None
    by_patient = [
        {data.images.images[row].ravel().tobytes() for row in np.flatnonzero(data.group == p)}
        for p in range(4)
    ]
    assert [min(len(slices & side) for side in sides) for slices in by_patient] == [0] * 4
    assert len(client.held_out) == 10


def test_a_limit_draws_slices_of_all_patients(brats: Path) -> None:
    data = load_nifti(brats, slices=(0, 9), limit=12, seed=1)
    assert len(data) == 12
    assert data.group is not None
    assert len(np.unique(data.group)) == 4


def test_folders_of_several_patients_are_clinics(tmp_path: Path) -> None:
    for clinic in ("HGG", "LGG"):
        for number in range(2):
            patient(tmp_path / clinic, f"Brats18_{clinic}_{number}", "left", number)
    data = load_nifti(tmp_path)
    assert data.owner_names == ("HGG", "LGG")
    assert [client.name for client in divide(data, held_out_share=0.5)] == ["HGG", "LGG"]


def test_volumes_without_maps_have_one_label_and_no_attribute(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"{number}.nii", head(number))
    data = load_nifti(tmp_path)
    assert data.label_names == ("slice",)
    assert data.images.attribute_names == ()
    assert data.owner is None


FIRST = "BraTS20_Training_001/BraTS20_Training_001"


def scan(root: Path, kind: str = "flair") -> Path:
    return root / f"{FIRST}_{kind}.nii.gz"


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def spoilt(value: float) -> Callable[[Path], object]:
    def spoil(root: Path) -> object:
        values = head()
        values[5, 5, 5] = value
        return write(scan(root), values)

    return spoil


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: cut(scan(root), 0.5), "001_flair.nii.gz cannot be read as NIfTI"),
        (lambda root: cut(scan(root), 0.0), "001_flair.nii.gz cannot be read as NIfTI"),
        (lambda root: scan(root).write_bytes(b"not a volume at all" * 50), "cannot be read as NIfTI"),
        (lambda root: scan(root).unlink(), "001_flair.nii.gz is missing: every patient needs flair"),
        (lambda root: scan(root, "seg").unlink(), "001 has no map"),
        (lambda root: write(scan(root, "seg"), marks(None)[:-1]), "is it of another patient"),
        (lambda root: write(scan(root), head()[..., None].repeat(2, axis=3)), "give volumes with three axes"),
        (lambda root: write(scan(root), head()[:-2]) and write(scan(root, "seg"), marks(None)[:-2]),
         "give an image size"),
        (lambda root: write(scan(root), np.zeros(SHAPE, np.float32)), "hardly any value but one"),
        (spoilt(np.nan), "not finite"),
    ],
)  # fmt: skip
def test_a_broken_volume_is_one_clear_line(
    brats: Path, break_it: Callable[[Path], object], words: str
) -> None:
    break_it(brats)
    with pytest.raises(DataError, match=words) as raised:
        load_nifti(brats)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda root: load_nifti(root / "nowhere"), "is not a folder"),
        (lambda root: load_nifti(root, slices=(4, 10)), "has slices 0 to 9, so 4 to 10 is no range"),
        (lambda root: load_nifti(root, slices=(0.9, 0.1)), "two shares from 0 to 1, ascending"),
        (lambda root: load_nifti(root, modalities=("pet",)), "choose from flair, t1, t1ce, t2"),
        (lambda root: load_nifti(root, modalities=("t2",)), "_t2.nii.gz is missing"),
        (lambda root: load_nifti(root, modalities=()), "choose from flair"),
    ],
)
def test_what_is_not_there_is_one_clear_line(brats: Path, load: Callable[[Path], object], words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        load(brats)
    assert "\n" not in str(raised.value)


def test_an_uncompressed_volume_cut_short_is_one_clear_line(tmp_path: Path) -> None:
    cut(write(tmp_path / "one.nii", head()), 0.7)
    with pytest.raises(DataError, match=r"one.nii cannot be read as NIfTI"):
        load_nifti(tmp_path)


def test_scans_of_one_patient_must_match(brats: Path) -> None:
    write(scan(brats, "t1ce"), head()[:, :-1])
    with pytest.raises(DataError, match="must be registered to each other"):
        load_nifti(brats, modalities=("flair", "t1ce"))


def test_a_header_that_claims_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path / "one.nii", head())
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.asarray([30000, 30000, 30000], dtype="<i2").tobytes()
    path.write_bytes(raw)
    with pytest.raises(DataError, match="claims 30000×30000×30000 voxels"):
        load_nifti(tmp_path)


def test_the_height_is_found_whichever_axis_holds_it(tmp_path: Path) -> None:
    lying = np.ascontiguousarray(head().transpose(2, 0, 1))
    affine = np.asarray([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    write(tmp_path / "lying" / "one.nii.gz", lying, affine)
    write(tmp_path / "upright" / "one.nii.gz", head())
    first, second = (
        load_nifti(tmp_path / name, slices=(0, 9)).images.images for name in ("lying", "upright")
    )
    np.testing.assert_array_equal(first, second)


def test_a_volume_without_directions_is_one_clear_line(tmp_path: Path) -> None:
    path = write(tmp_path / "one.nii", head())
    raw = bytearray(path.read_bytes())
    raw[312:328] = bytes(16)  # the row of the affine that says how high a voxel lies
    path.write_bytes(raw)
    with pytest.raises(DataError, match="which of its axes points to the top"):
        load_nifti(tmp_path)


def test_voxels_that_are_no_real_numbers_are_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "phase.nii", head().astype(np.complex64))
    with pytest.raises(DataError, match="holds complex64 voxels: export the magnitude"):
        load_nifti(tmp_path)


@pytest.mark.parametrize(("at", "value"), [(280, np.nan), (280, 0.0), (108, 1e30), (108, np.inf)])
def test_a_header_that_makes_no_sense_is_one_clear_line(tmp_path: Path, at: int, value: float) -> None:
    """Byte 280 begins the directions of the axes, byte 108 says where the voxels begin."""
    path = write(tmp_path / "one.nii", head())
    content = bytearray(path.read_bytes())
    content[at : at + 4] = np.float32(value).tobytes()
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_nifti(tmp_path)
    assert "\n" not in str(raised.value)
