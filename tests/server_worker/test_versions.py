import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from server_worker import versions
from server_worker.denoising.version_follower import VersionFollower
from server_worker.errors import ContractMismatch, Damaged, NotFinite, VersionMissing
from server_worker.storage import Storage
from tests.server_worker.backbones import CPU, SHAPE, UNET, T, publish_backbone


def test_versions_are_numbered_and_the_newest_is_the_latest(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert versions.latest(storage) is None
    assert [publish_backbone(storage, seed).number for seed in range(3)] == [1, 2, 3]
    assert versions.latest(storage) == 3
    assert (tmp_path / "versions" / "LATEST").read_text() == "3\n"


def test_a_version_comes_back_as_it_was_published(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one, again = publish_backbone(storage), versions.load(storage, 1, CPU)
    x, t = torch.randn(2, *SHAPE), torch.tensor([T, 5])
    with torch.no_grad():
        assert torch.equal(one.network(x, t, torch.tensor([0, 3])), again.network(x, t, torch.tensor([0, 3])))
    assert again.manifest.t_cut_min == 20
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_numbers_go_on_rising_when_old_versions_are_dropped(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    manifest = publish_backbone(storage).manifest
    weights = dict(publish_backbone(storage).network.state_dict())
    for _ in range(3):
        versions.publish(storage, weights, manifest, keep=2)
    assert storage.folders("versions") == ["000004", "000005"]
    assert versions.latest(storage) == 5
    with pytest.raises(VersionMissing, match="no backbone version 1"):
        versions.load(storage, 1, CPU)


def test_a_damaged_version_is_not_loaded(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    path = tmp_path / "versions" / "000001" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Damaged, match="wrong digest"):
        versions.load(storage, 1, CPU)
    (tmp_path / "versions" / "LATEST").write_text("the newest")
    with pytest.raises(Damaged, match="no version number"):
        versions.latest(storage)


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule_name": "sqrt"},
        {"schedule_T": "long"},
        {"schedule_T": 0},
        {"shape": [3, 8, 8]},
        {"num_classes": 50},
        {"num_classes": None},
        {"unet": None},
        {"unet": {**UNET.to_dict(), "channel_multipliers": None}},
        {"unet": {**UNET.to_dict(), "base_channels": "wide"}},
    ],
)
def test_a_manifest_that_makes_no_sense_is_damage_and_nothing_worse(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    path = tmp_path / "versions" / "000001" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises((Damaged, ContractMismatch)):
        versions.load(storage, 1, CPU)


def test_weights_that_are_not_finite_are_damage(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = publish_backbone(storage)
    weights = dict(first.network.state_dict())
    weights["last.bias"] = torch.full_like(weights["last.bias"], float("nan"))
    with pytest.raises(NotFinite, match="not published"):
        versions.publish(storage, weights, first.manifest)
    assert versions.published(storage) == [1]
    data = save({name: tensor.contiguous() for name, tensor in weights.items()})
    (tmp_path / "versions" / "000001" / "weights.safetensors").write_bytes(data)
    path = tmp_path / "versions" / "000001" / "manifest.json"
    fields = json.loads(path.read_text()) | {"weights_digest": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(fields))
    with pytest.raises(Damaged, match="not finite"):
        versions.load(storage, 1, CPU)


@pytest.mark.parametrize("text", ["", "the newest", "\x00\x00"])
def test_versions_are_published_whatever_became_of_the_names(tmp_path: Path, text: str) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    versions.name_best(storage, 1)
    for name in ("LATEST", "BEST"):
        (tmp_path / "versions" / name).write_text(text)

    assert versions.newest(storage) == 1
    network = publish_backbone(storage, seed=1).network
    manifest = versions.read_manifest(storage, 2)
    assert versions.publish(storage, network.state_dict(), manifest, keep=1).number == 3

    assert versions.latest(storage) == 3
    assert versions.published(storage) == [1, 2, 3], "any of them may be the best"
    versions.name_best(storage, 1)
    versions.publish(storage, network.state_dict(), manifest, keep=1)
    assert versions.published(storage) == [1, 4]


def test_weights_whose_folder_was_written_before_the_disk_was_full_get_no_second_number(
    tmp_path: Path,
) -> None:
    storage = Storage(tmp_path)
    made = publish_backbone(storage)
    weights = publish_backbone(storage, seed=1).network.state_dict()
    versions.publish(storage, weights, made.manifest)
    (tmp_path / "versions" / "LATEST").write_text("2\n")  # as if the disk had been full for it

    again = versions.publish(storage, weights, made.manifest)
    assert (again.number, versions.latest(storage)) == (3, 3)
    assert versions.published(storage) == [1, 2, 3]
    (tmp_path / "versions" / "LATEST").write_text("2\n")
    later = versions.publish(storage, weights, replace(made.manifest, steps=2))
    assert (later.number, versions.latest(storage)) == (4, 4), "another moment of training"


def test_the_best_version_is_followed_once_there_is_one_and_is_never_dropped(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    follower = VersionFollower(storage, CPU, poll_seconds=0.02, follow="best")
    follower.start()

    def handed_over(wait_seconds: float) -> int | None:
        version = follower.take(wait_seconds)
        return None if version is None else version.number

    first = publish_backbone(storage)
    assert handed_over(20) == 1, "the latest stands in for the best"
    versions.name_best(storage, 1)
    for _ in range(4):
        versions.publish(storage, dict(first.network.state_dict()), first.manifest, keep=2)
    assert versions.latest(storage) == 5
    assert versions.published(storage) == [1, 4, 5]
    assert handed_over(0.2) is None, "the best is still the first"
    versions.name_best(storage, 4)
    assert handed_over(20) == 4
    follower.stop()


def test_a_manifest_of_before_the_held_out_loss_is_still_read(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    publish_backbone(storage)
    path = tmp_path / "versions" / "000001" / "manifest.json"
    fields = json.loads(path.read_text())
    for name in ("held_out_loss", "held_out_by_level", "samples_by_client"):
        del fields[name]
    path.write_text(json.dumps(fields))

    manifest = versions.read_manifest(storage, 1)

    assert (manifest.held_out_loss, manifest.samples_by_client) == (None, {})
