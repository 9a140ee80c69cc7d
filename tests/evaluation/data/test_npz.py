"""Archives of NumPy arrays, good and bad."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.data import npz
from evaluation.data.images import LabelledImages, write_npz
from evaluation.data.npz import load_npz
from evaluation.data.sources import divide, open_source
from evaluation.errors import DataError

N = 12


def arrays(**changes: Any) -> dict[str, Any]:
    """A full set of arrays, some of them replaced; None leaves one out."""
    whole = {
        "images": np.linspace(-1, 1, N * 16, dtype=np.float32).reshape(N, 1, 4, 4),
        "labels": np.arange(N) % 2,
        "label_names": np.asarray(["even", "odd"]),
        "attributes": np.linspace(0, 1, 2 * N).reshape(N, 2),
        "attribute_names": np.asarray(["age", "dose"]),
        "owner": np.arange(N) % 3,
        "owner_names": np.asarray(["a", "b", "c"]),
        "group": np.arange(N),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def saved(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_everything_the_archive_says_is_kept(tmp_path: Path) -> None:
    data = open_source(f"npz:{saved(tmp_path / 'mine.npz')}")
    given = arrays()
    np.testing.assert_array_equal(data.images.images, given["images"])
    np.testing.assert_array_equal(data.images.labels, given["labels"])
    np.testing.assert_allclose(data.images.attribute("dose"), given["attributes"][:, 1], atol=1e-6)
    assert (data.name, data.label_names, data.owner_names) == ("mine", ("even", "odd"), ("a", "b", "c"))
    assert data.group is not None
    assert [client.name for client in divide(data)] == ["a", "b", "c"]


def test_images_alone_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "bare.npz"
    np.savez(path, images=np.full((N, 4, 6), 255, np.uint8))
    data = load_npz(path, image_size=2, limit=5)
    assert data.images.images.shape == (5, 1, 2, 2)
    assert (data.images.images == 1).all()
    assert data.label_names == ("0",)
    assert data.owner is None


def test_what_this_project_writes_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "written.npz"
    images = LabelledImages(arrays()["images"], np.arange(N, dtype=np.int32))
    write_npz(path, images)
    np.testing.assert_array_equal(load_npz(path).images.images, images.images)
    np.testing.assert_array_equal(load_npz(path).images.labels, images.labels)


class Trap:
    """What does something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_an_array_of_objects_is_refused_and_nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "trap.npz", labels=np.asarray([Trap()] * N, dtype=object))
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_npz(path)
    assert not (tmp_path / "trap-was-sprung").exists()
    with np.load(path, allow_pickle=True) as archive:
        archive["labels"]
    assert (tmp_path / "trap-was-sprung").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "no array 'images'"),
        ({"images": np.zeros((N, 9, 9, 3))}, "it must be"),
        ({"images": np.zeros((0, 1, 4, 4))}, "not empty"),
        ({"images": np.zeros((N, 1, 4, 4), np.int64)}, "holds int64"),
        ({"images": np.full((N, 1, 4, 4), 255.0)}, "values from 255 to 255"),
        ({"images": np.full((N, 1, 4, 4), np.nan)}, "not finite"),
        ({"labels": np.arange(N - 1)}, "'labels' is int64"),
        ({"labels": np.linspace(0, 1, N)}, "'labels' is float64"),
        ({"images": np.linspace(0, 1, N * 16).reshape(N, 1, 4, 4)}, r"none below 0.*write 2 \* images - 1"),
        ({"labels": np.arange(N) - 1}, "labels go from -1"),
        (
            {"labels": np.arange(N) - 1, "label_names": None},
            "'labels' goes from -1 to 10, it must count from 0",
        ),
        ({"labels": np.arange(N) * 10**8, "label_names": None}, "'labels' goes from 0 to 1100000000"),
        ({"owner": np.arange(N) * 10**8, "owner_names": None}, "'owner' goes from 0 to 1100000000"),
        ({"label_names": np.asarray(["odd", "odd"])}, "gives a name twice"),
        ({"group": np.arange(N) - 2**40}, "integers of 32 bits"),
        ({"labels": np.arange(N)}, "labels go from 0 to 11, but 2 have a name"),
        ({"label_names": np.asarray([1, 2])}, "'label_names' is int64"),
        ({"attribute_names": None}, "one column for each of 'attribute_names'"),
        ({"attributes": np.full((N, 2), 2.0)}, "must lie in"),
        ({"owner": np.arange(N)}, "owners go from 0 to 11, but 3 have a name"),
        ({"group": np.zeros((N, 2), np.int32)}, "'group' is int32"),
    ],
)
def test_a_broken_archive_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        load_npz(saved(tmp_path / "broken.npz", **changes))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_archive_is_one_clear_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "cut.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_npz(path)
    with pytest.raises(DataError, match="does not exist"):
        load_npz(tmp_path / "nowhere.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_npz(tmp_path / "single.npy")


def test_a_damaged_or_locked_archive_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "packed.npz"
    np.savez_compressed(path, **arrays())
    whole = path.read_bytes()
    first = whole.index(b".npy") + len(b".npy") + 20
    path.write_bytes(
        whole[:first] + bytes(255 - byte for byte in whole[first : first + 60]) + whole[first + 60 :]
    )
    with pytest.raises(DataError, match=r"cannot be read as \.npz \(Error -3 while decompressing"):
        load_npz(path)
    locked = bytearray(saved(path).read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # where zip says that a member is encrypted
        for start in [at for at in range(len(locked)) if locked[at : at + 4] == mark]:
            locked[start + flags] |= 1
    path.write_bytes(locked)
    with pytest.raises(DataError, match="password required"):
        load_npz(path)


def test_a_header_that_claims_more_than_there_is_is_one_clear_line(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000, 1, 4, 4), }"
    header += b" " * (118 - 1 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        load_npz(tmp_path / "lie.npz")


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "large.npz")
    monkeypatch.setattr(npz, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="unpacks to"):
        load_npz(path)
