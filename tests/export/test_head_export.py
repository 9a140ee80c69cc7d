import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from diffusion.network import UNet, UNetConfig
from export.bundle.bars import BARS, check_bars
from export.bundle.bundle import read_bundle
from export.checkpoint import load_checkpoint
from export.cli import app
from export.conversion.onnx_export import export_onnx
from export.conversion.parity import BATCH_SIZES, check_parity
from export.conversion.running import Exported
from export.conversion.trajectories import Trained
from export.errors import BundleError, ExportError, ParityFailed
from export.head_export import Issue, export_head
from export.onnx_runtime import ort
from tests.export.heads import SCHEDULE, T_CUT, random_network, write_checkpoint

runner = CliRunner()

ISSUED_AT = 1_800_000_000


def eps_of(model: bytes, **feeds: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    eps: np.ndarray = session.run(["eps"], feeds)[0]
    return eps


def test_the_bundle_says_what_the_head_is_and_how_it_was_checked(bundle_path: Path) -> None:
    bundle = read_bundle(bundle_path)
    manifest = bundle.manifest

    assert (manifest.name, manifest.client, manifest.version, manifest.counter) == ("ward", "ward", "1", 1)
    assert (manifest.t_first, manifest.t_cut, manifest.schedule_T) == (1, T_CUT, SCHEDULE.T)
    assert manifest.image_shape == (1, 8, 8)
    assert manifest.labels == ("class 0", "class 1", "class 2")
    step = manifest.gates[0].step
    assert step.batch_sizes == BATCH_SIZES
    assert step.evaluations >= T_CUT
    assert 0 < step.relative_rms <= step.allowed_relative_rms == BARS["fp32"].step_relative_rms
    assert step.levels[0].t_first == 1
    assert step.levels[-1].t_last == T_CUT
    assert [chain.steps for chain in manifest.gates[0].chains] == [4, 16]
    for chain in manifest.gates[0].chains:
        assert chain.frechet < 0.01 * chain.frechet_floor
    check_bars(manifest)
    assert manifest.network.parameters == sum(p.numel() for p in random_network().parameters())


def test_exporting_twice_gives_the_same_bytes(
    checkpoint_path: Path, bundle_path: Path, tmp_path: Path
) -> None:
    export_head(checkpoint_path, tmp_path / "again.bundle", issue=Issue(issued_at=ISSUED_AT))

    assert (tmp_path / "again.bundle").read_bytes() == bundle_path.read_bytes()


def test_the_model_is_one_file_with_norms_of_one_kernel_and_nothing_of_this_machine(
    bundle_path: Path,
) -> None:
    content = read_bundle(bundle_path).onnx
    model = onnx.load_from_string(content)

    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert "InstanceNormalization" in {node.op_type for node in model.graph.node}
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_size_is_free(bundle_path: Path, batch_size: int) -> None:
    x = np.random.default_rng(0).standard_normal((batch_size, 1, 8, 8)).astype(np.float32)
    t = np.arange(1, batch_size + 1, dtype=np.int64)
    label = np.zeros(batch_size, np.int64)

    eps = eps_of(read_bundle(bundle_path).onnx, x=x, t=t, label=label)

    expected = random_network()(torch.from_numpy(x), torch.from_numpy(t), torch.from_numpy(label)).numpy()
    np.testing.assert_allclose(eps, expected, atol=1e-5)


def test_an_unconditional_head_of_coloured_images_is_exported_without_a_label() -> None:
    network = random_network(num_classes=None, image_size=16, in_channels=3)

    model = export_onnx(network)
    figures = check_parity(Trained(network, SCHEDULE, 5), Exported(model), BARS["fp32"])

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x", "t"]
    assert figures.relative_rms <= 1e-5


def test_a_head_that_a_device_could_not_ask_is_not_exported() -> None:
    network = UNet(UNetConfig(1, 8, 8, (1,), 1, attention=False, condition_size=3))
    with pytest.raises(ExportError, match="condition of 3 numbers"):
        export_onnx(network)


def test_a_single_changed_weight_fails_the_gate(model: bytes) -> None:
    network = random_network()
    network.last.weight[0, 0, 1, 1] += 0.01

    with pytest.raises(ParityFailed, match="no bundle was written"):
        check_parity(Trained(network, SCHEDULE, T_CUT), Exported(model), BARS["fp32"])


def test_a_head_that_is_wrong_for_one_label_only_fails_the_gate(model: bytes) -> None:
    network = random_network()
    assert network.embed_label is not None
    network.embed_label.weight[3] += 0.5  # "no label"

    with pytest.raises(ParityFailed):
        check_parity(Trained(network, SCHEDULE, T_CUT), Exported(model), BARS["fp32"])


def test_a_head_that_gives_nan_fails_the_gate(model: bytes) -> None:
    network = random_network()
    network.last.weight[0, 0, 1, 1] = float("nan")

    with pytest.raises(ParityFailed, match="nan"):
        check_parity(Trained(network, SCHEDULE, T_CUT), Exported(model), BARS["fp32"])


def test_a_model_that_onnxruntime_cannot_load_fails_the_gate() -> None:
    with pytest.raises(ParityFailed, match="cannot load"):
        Exported(b"no model")


def test_a_head_that_fails_the_gate_leaves_the_old_bundle_in_place(
    model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "head.bundle"
    out.write_bytes(b"the old bundle")
    checkpoint = write_checkpoint(tmp_path / "head.safetensors", random_network(seed=1))
    # An exporter that gets it wrong: it gives another head's network.
    monkeypatch.setattr("export.conversion.precision.export_onnx", lambda _network: model)

    with pytest.raises(ParityFailed):
        export_head(checkpoint, out)

    assert out.read_bytes() == b"the old bundle"
    assert sorted(tmp_path.iterdir()) == [out, checkpoint]


def test_a_client_name_that_no_device_could_have_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "head.safetensors", random_network(), client="Ward 7")

    with pytest.raises(ExportError, match="'Ward 7' is not a name"):
        export_head(path, tmp_path / "head.bundle")
    with pytest.raises(ExportError, match="is not a name"):
        export_head(path, tmp_path / "head.bundle", issue=Issue(name="../ward"))
    assert not (tmp_path / "head.bundle").exists()


def test_the_command_exports_and_inspects(checkpoint_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "ward-7.bundle"

    made = runner.invoke(app, ["head", str(checkpoint_path), "--out", str(out), "--name", "ward-7"])
    shown = runner.invoke(app, ["inspect", str(out)])
    as_json = runner.invoke(app, ["inspect", str(out), "--json"])

    assert made.exit_code == 0, made.output
    assert f"head ward-7 1 (counter 1), t=1..{T_CUT}" in made.output
    assert SCHEDULE.schedule_id in shown.output
    assert json.loads(as_json.stdout) == json.loads(read_bundle(out).manifest.to_bytes())


def test_the_command_refuses_a_damaged_bundle(bundle_path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(bundle_path.read_bytes()[:-30])

    result = runner.invoke(app, ["inspect", str(damaged)])

    assert isinstance(result.exception, BundleError)
    assert result.exit_code != 0


def test_the_exported_head_of_a_loaded_checkpoint_is_the_trained_one(
    checkpoint_path: Path, bundle_path: Path
) -> None:
    head = load_checkpoint(checkpoint_path)

    trained = Trained(head.network, head.schedule, T_CUT)
    figures = check_parity(trained, Exported(read_bundle(bundle_path).onnx), BARS["fp32"])

    assert figures == read_bundle(bundle_path).manifest.gates[0].step
