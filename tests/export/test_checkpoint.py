import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.checkpoint import load_checkpoint, save_checkpoint
from export.errors import ExportError
from tests.export.heads import SCHEDULE, T_CUT, metadata_of, random_network, write_checkpoint


def test_a_checkpoint_gives_back_the_network_its_facts_and_its_schedule(tmp_path: Path) -> None:
    network = random_network()
    path = write_checkpoint(tmp_path / "head.safetensors", network)

    head = load_checkpoint(path)

    assert head.metadata == metadata_of(network)
    assert head.metadata.t_cut == T_CUT
    assert head.schedule.schedule_id == SCHEDULE.schedule_id
    for name, tensor in network.state_dict().items():
        assert torch.equal(head.network.state_dict()[name], tensor)


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_a_cut_short_checkpoint_is_refused_in_one_line(tmp_path: Path, keep: int) -> None:
    path = write_checkpoint(tmp_path / "head.safetensors", random_network())
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(ExportError, match=r"head\.safetensors") as refused:
        load_checkpoint(path)

    assert "\n" not in str(refused.value)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot read"):
        load_checkpoint(tmp_path / "absent.safetensors")


def test_weights_without_a_head_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)

    with pytest.raises(ExportError, match="no CollaFuse head"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_schedule_is_refused_with_both_ids(tmp_path: Path) -> None:
    network = random_network()
    other = metadata_of(network).model_copy(update={"schedule_name": "linear"})
    save_checkpoint(tmp_path / "head.safetensors", network, other)

    with pytest.raises(ExportError, match=SCHEDULE.schedule_id):
        load_checkpoint(tmp_path / "head.safetensors")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = random_network()
    network.last.weight[0, 0, 0, 0] = float("nan")
    path = write_checkpoint(tmp_path / "head.safetensors", network)

    with pytest.raises(ExportError, match=r"last\.weight is not finite"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "collafuse-head-v9"}, "format"),
        ({"t_cut": 10_000}, "beyond T"),
        ({"surprise": 1}, "surprise"),
        ({"unet": {"width": 3}}, "unknown or missing keys"),
    ],
)
def test_facts_that_make_no_sense_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    network = random_network()
    path = write_checkpoint(tmp_path / "head.safetensors", network)
    facts = {**metadata_of(network).model_dump(mode="json"), **change}
    save_file(load_file(path), path, {"collafuse": json.dumps(facts)})

    with pytest.raises(ExportError, match=message):
        load_checkpoint(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_and_no_debris(tmp_path: Path) -> None:
    network = random_network()
    path = write_checkpoint(tmp_path / "head.safetensors", network)
    before = path.read_bytes()
    (tmp_path / "a-directory").mkdir()

    with pytest.raises(ExportError, match="cannot write"):
        save_checkpoint(tmp_path / "a-directory", network, metadata_of(network))

    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a-directory", "head.safetensors"]
