import dataclasses
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

from broker.contract.heads import MAX_BUNDLE_BYTES
from export.bundle.archive import pack, unpack
from export.bundle.bundle import (
    MEMBERS,
    pack_bundle,
    parse_bundle,
    read_bundle,
    write_bundle,
)
from export.bundle.keyring import Keyring
from export.bundle.keys import BUNDLE_DOMAIN, UNSIGNED, KeyList, PrivateKey, SignedKeyList
from export.errors import BundleError
from tests.export.bundle.small_bundle import KEY, ONNX, SCHEDULE, small_bundle, small_manifest

ARCHIVE = pack_bundle(small_bundle())
SIGNER = Keyring((KEY.public,))


def repacked(**changes: bytes) -> bytes:
    """The archive with some members replaced, by the name before the dot, and a sound container around them."""
    contents = dict(zip(MEMBERS, (bytes(view) for view in unpack(ARCHIVE, MEMBERS)), strict=True))
    return pack([(name, changes.get(name.split(".")[0], content)) for name, content in contents.items()])


def changed_manifest(**changes: Any) -> bytes:
    document = json.loads(small_manifest().to_bytes()) | changes
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def changed_gate(part: str, **changes: Any) -> dict[str, Any]:
    gate = small_manifest().gates[0].model_dump(mode="json")
    return gate | {part: gate[part] | changes}


def changed_chain(**changes: Any) -> dict[str, Any]:
    gate = small_manifest().gates[0].model_dump(mode="json")
    return gate | {"chains": [gate["chains"][0] | changes]}


def test_a_bundle_gives_back_what_was_written(tmp_path: Path) -> None:
    write_bundle(tmp_path / "head.bundle", small_bundle())

    bundle = read_bundle(tmp_path / "head.bundle")

    assert bundle.manifest == small_manifest()
    assert bundle.onnx == ONNX
    assert np.array_equal(bundle.alpha_bar, SCHEDULE.alpha_bar)
    assert bundle.schedule.schedule_id == SCHEDULE.schedule_id
    assert np.array_equal(bundle.golden.x, small_bundle().golden.x)
    assert bundle.golden.relative_rms(small_bundle().golden.eps) == 0
    assert SIGNER.verify(bundle.manifest_bytes, bundle.signatures) == KEY.public.key_id


def test_the_same_head_gives_the_same_bytes_everywhere(tmp_path: Path) -> None:
    write_bundle(tmp_path / "head.bundle", small_bundle())

    content = (tmp_path / "head.bundle").read_bytes()

    assert content == ARCHIVE
    # The form itself is a promise: bundles on devices were written by other versions than the one that reads.
    assert hashlib.sha256(pack([("a", b"1"), ("b", b"")])).hexdigest() == (
        "2dd48adea2be2b8fff68b87919f40821a6a91d9e767a967b50406b88fb1a98db"
    )


def test_any_zip_tool_opens_a_bundle() -> None:
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == list(MEMBERS)
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


def admit(archive: bytes, ring: Keyring) -> None:
    """What a device does before it takes a bundle."""
    bundle = parse_bundle(archive)
    ring.follow(bundle.key_list).verify(bundle.manifest_bytes, bundle.signatures)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_byte_of_a_member_is_watched_by_digest_or_signature_behind_a_repaired_container(
    member: str,
) -> None:
    newer = PrivateKey.generate()
    change = SignedKeyList(content=KeyList(version=1, keys=(newer.public.text,), threshold=1))
    archive = pack_bundle(small_bundle(newer, change.signed_by(KEY).signed_by(newer)))
    contents = dict(zip(MEMBERS, (bytes(view) for view in unpack(archive, MEMBERS)), strict=True))
    admit(archive, SIGNER)

    for offset in range(len(contents[member])):
        damaged = bytearray(contents[member])
        damaged[offset] ^= 0x01
        with pytest.raises(BundleError):
            admit(pack([*(contents | {member: bytes(damaged)}).items()]), SIGNER)


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
        ({"format": "collafuse-bundle-v3"}, "format"),
        ({"version": 3}, "version"),
        ({"version": "a b"}, "version"),
        ({"counter": 0}, "counter"),
        ({"expires_at": 5}, "expires before it was issued"),
        ({"minimum_agent": "new"}, "minimum_agent"),
        ({"golden": {"count": 3, "allowed_relative_rms": 1e-3}}, "golden_x.npy holds"),
        ({"schedule_id": "0" * 16}, "the manifest says 0000000000000000"),
        ({"schedule_T": 49, "t_cut": 9}, "schedule.npy holds"),
        ({"digests": {}}, "golden_eps.npy is not what the manifest vouches for"),
        ({"gates": []}, "gates"),
        ({"gates": [changed_gate("step", relative_rms=1.0)]}, "a step's error"),
        ({"gates": [changed_chain(psnr_db_least=10.0)]}, "10.0 dB, under 60.0"),
        ({"gates": [changed_chain(frechet=30.0)]}, "over the floor"),
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
        write_bundle(tmp_path / "head.bundle", dataclasses.replace(small_bundle(), onnx=b"other"))

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


def test_a_bundle_of_the_first_form_is_named_as_such(tmp_path: Path) -> None:
    old = changed_manifest(format="collafuse-bundle-v1")
    path = tmp_path / "old.bundle"
    path.write_bytes(pack([("manifest.json", old), ("head.onnx", ONNX), ("schedule.npy", b"")]))

    with pytest.raises(BundleError, match=r"older format collafuse-bundle-v1.*export it again"):
        read_bundle(path)


def test_a_bundle_without_signatures_is_whole_but_nobody_vouches_for_it() -> None:
    bundle = parse_bundle(pack_bundle(dataclasses.replace(small_bundle(), signatures=UNSIGNED)))

    with pytest.raises(BundleError, match="0 of the 1 signatures"):
        SIGNER.verify(bundle.manifest_bytes, bundle.signatures)


def test_the_signature_of_one_bundle_is_none_of_another() -> None:
    other = small_manifest().model_copy(update={"client": "clinic"})

    with pytest.raises(BundleError, match="does not fit"):
        SIGNER.verify(other.to_bytes(), small_bundle().signatures)
    assert SIGNER.verify(other.to_bytes(), UNSIGNED.plus(KEY.sign(BUNDLE_DOMAIN, other.to_bytes())))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("signatures", b"{" + b" " * 2**17, "signatures.json has 65537 bytes"),
        ("keys", b"{" + b" " * 2**20, "keys.json has 524289 bytes"),
        ("manifest", b"{" + b" " * 2**21, "manifest.json has 1048577 bytes"),
        ("signatures", b"[" * 60_000, "signatures.json is not valid"),
        ("keys", b'{"lists": []}', "canonical"),
        ("golden_x", b"", "golden_x.npy is not what the manifest vouches for"),
    ],
)
def test_a_member_over_its_limit_or_out_of_its_form_is_refused(
    name: str, content: bytes, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        parse_bundle(repacked(**{name: content}))
