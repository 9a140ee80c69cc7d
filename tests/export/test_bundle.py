import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.schedule import NoiseSchedule
from export.archive import pack, unpack
from export.bundle import MAX_BUNDLE_BYTES, member_digests, parse_bundle, read_bundle, write_bundle
from export.errors import BundleError
from export.manifest import Manifest

ONNX = b"any bytes will do: a bundle does not run the network"
SCHEDULE = NoiseSchedule.cosine(50)


def small_manifest() -> Manifest:
    facts = {
        "name": "ward",
        "client": "ward",
        "version": 3,
        "schedule_name": SCHEDULE.name,
        "schedule_T": SCHEDULE.T,
        "schedule_id": SCHEDULE.schedule_id,
        "t_first": 1,
        "t_cut": 10,
        "image_shape": (1, 8, 8),
        "num_classes": 2,
        "labels": ("cat", "dog"),
        "network": {"parameters": 9, "base_channels": 8, "opset": 21, "precision": "fp32"},
        "training": {
            "steps": 5,
            "batch_size": 4,
            "images": 12,
            "learning_rate": 0.001,
            "seed": 0,
            "seconds": 0.5,
            "final_loss": 0.25,
        },
        "parity": {
            "threshold": 1e-4,
            "max_abs_error": 2e-6,
            "mean_abs_error": 1e-6,
            "batch_sizes": (1, 3, 16),
            "evaluations": 100,
            "noise_levels": ({"t_first": 1, "t_last": 10, "max_abs_error": 2e-6},),
            "onnxruntime": "1",
            "torch": "2",
        },
        "digests": member_digests(ONNX, SCHEDULE),
    }
    return Manifest.model_validate(facts)


def small_archive() -> bytes:
    table = io.BytesIO()
    np.save(table, SCHEDULE.alpha_bar)
    members = [
        ("manifest.json", small_manifest().to_bytes()),
        ("head.onnx", ONNX),
        ("schedule.npy", table.getvalue()),
    ]
    return pack(members)


ARCHIVE = small_archive()


def repacked(**changes: bytes) -> bytes:
    names = ("manifest.json", "head.onnx", "schedule.npy")
    contents = [bytes(view) for view in unpack(ARCHIVE, names)]
    return pack(
        [
            (name, changes.get(name.split(".")[0], content))
            for name, content in zip(names, contents, strict=True)
        ]
    )


def changed_manifest(**changes: Any) -> bytes:
    document = json.loads(small_manifest().to_bytes()) | changes
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_a_bundle_gives_back_what_was_written(tmp_path: Path) -> None:
    write_bundle(tmp_path / "head.bundle", small_manifest(), ONNX, SCHEDULE)

    bundle = read_bundle(tmp_path / "head.bundle")

    assert bundle.manifest == small_manifest()
    assert bundle.onnx == ONNX
    assert np.array_equal(bundle.alpha_bar, SCHEDULE.alpha_bar)
    assert bundle.schedule.schedule_id == SCHEDULE.schedule_id


def test_the_same_head_gives_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_bundle(tmp_path / "head.bundle", small_manifest(), ONNX, SCHEDULE)

    content = (tmp_path / "head.bundle").read_bytes()

    assert content == ARCHIVE
    # The form itself is a promise: bundles on devices were written by other versions than the one that reads.
    assert hashlib.sha256(pack([("a", b"1"), ("b", b"")])).hexdigest() == (
        "2dd48adea2be2b8fff68b87919f40821a6a91d9e767a967b50406b88fb1a98db"
    )


def test_any_zip_tool_opens_a_bundle() -> None:
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", "head.onnx", "schedule.npy"]
        assert archive.read("head.onnx") == ONNX
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


@settings(max_examples=400, deadline=None)
@given(offset=st.integers(0, len(ARCHIVE) - 1), flip=st.integers(1, 255))
def test_any_flipped_byte_is_refused(offset: int, flip: int) -> None:
    damaged = bytearray(ARCHIVE)
    damaged[offset] ^= flip

    with pytest.raises(BundleError):
        parse_bundle(bytes(damaged))


def test_every_byte_of_the_container_is_watched() -> None:
    for offset in range(len(ARCHIVE)):
        damaged = bytearray(ARCHIVE)
        damaged[offset] ^= 0x01
        with pytest.raises(BundleError):
            parse_bundle(bytes(damaged))


@given(length=st.integers(0, len(ARCHIVE) - 1))
@settings(deadline=None)
def test_a_cut_short_bundle_is_refused(length: int) -> None:
    with pytest.raises(BundleError):
        parse_bundle(ARCHIVE[:length])


@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    for candidate in (content, ARCHIVE + content + b"x", ARCHIVE[:40] + content):
        with pytest.raises(BundleError):
            parse_bundle(candidate)


def test_a_compressed_bundle_is_refused_before_anything_is_inflated() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * 10_000_000)
        archive.writestr("head.onnx", ONNX)
        archive.writestr("schedule.npy", b"")

    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        parse_bundle(packed.getvalue())


def test_a_file_over_the_limit_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = tmp_path / "huge.bundle"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 20 * MAX_BUNDLE_BYTES)

    with pytest.raises(BundleError, match="larger than"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx": b""}, "manifest.json is not valid: onnx"),
        ({"name": "../etc"}, "name"),
        ({"t_cut": 51}, r"steps 1\.\.51 are not in 1\.\.50"),
        ({"t_first": 0}, "t_first"),
        ({"labels": ["cat"]}, "1 labels are named"),
        ({"image_shape": [1, 0, 8]}, "not possible"),
        ({"format": "collafuse-bundle-v2"}, "format"),
        ({"version": "3"}, "version"),
        ({"schedule_id": "0" * 16}, "the manifest says 0000000000000000"),
        ({"schedule_T": 49, "t_cut": 9}, "schedule.npy holds"),
        ({"digests": {}}, "head.onnx is not what the manifest vouches for"),
        (
            {"parity": small_manifest().parity.model_dump(mode="json") | {"max_abs_error": 1.0}},
            "parity error",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_or_the_bundle_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    text = changed_manifest(**{key: value if value != b"" else 1 for key, value in changes.items()})

    with pytest.raises(BundleError, match=message):
        parse_bundle(repacked(manifest=text))


def test_another_spelling_of_the_same_manifest_is_refused() -> None:
    spaced = json.dumps(json.loads(small_manifest().to_bytes()), indent=1).encode()

    with pytest.raises(BundleError, match="canonical"):
        parse_bundle(repacked(manifest=spaced))


def test_a_swapped_network_is_refused_even_in_a_sound_container() -> None:
    with pytest.raises(BundleError, match=r"head\.onnx is not what the manifest vouches for"):
        parse_bundle(repacked(head=b"another network"))


@pytest.mark.parametrize("shape", [(10**12,), (51, 1), (50,)])
def test_a_table_of_another_shape_is_refused_before_it_is_allocated(shape: tuple[int, ...]) -> None:
    table = io.BytesIO()
    np.lib.format.write_array_header_1_0(table, {"descr": "<f8", "fortran_order": False, "shape": shape})
    table.write(SCHEDULE.alpha_bar.tobytes())
    content = table.getvalue()
    digests = small_manifest().digests | {"schedule.npy": hashlib.sha256(content).hexdigest()}

    with pytest.raises(BundleError, match=r"schedule\.npy holds"):
        parse_bundle(repacked(schedule=content, manifest=changed_manifest(digests=digests)))


def test_a_pickled_table_is_refused() -> None:
    table = io.BytesIO()
    np.save(table, np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    content = table.getvalue()
    digests = small_manifest().digests | {"schedule.npy": hashlib.sha256(content).hexdigest()}

    with pytest.raises(BundleError, match=r"schedule\.npy holds object"):
        parse_bundle(repacked(schedule=content, manifest=changed_manifest(digests=digests)))


def test_a_table_that_is_no_schedule_is_refused() -> None:
    table = io.BytesIO()
    np.save(table, SCHEDULE.alpha_bar[::-1].copy())
    content = table.getvalue()
    digests = small_manifest().digests | {"schedule.npy": hashlib.sha256(content).hexdigest()}

    with pytest.raises(BundleError, match="not a noise schedule"):
        parse_bundle(repacked(schedule=content, manifest=changed_manifest(digests=digests)))


def test_a_bundle_is_not_written_for_a_manifest_of_another_network(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="another network"):
        write_bundle(tmp_path / "head.bundle", small_manifest(), b"other", SCHEDULE)

    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_in_one_line_with_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "head.bundle"
    path.write_bytes(ARCHIVE[:-1])

    with pytest.raises(BundleError) as refused:
        read_bundle(path)
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(tmp_path / "absent.bundle")

    assert str(path) in str(refused.value)
    assert "export it again" in str(refused.value)
    assert "\n" not in str(refused.value)
