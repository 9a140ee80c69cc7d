from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from diffusion.network import Block
from export.bundle.bars import BARS, Bar
from export.bundle.bundle import read_bundle
from export.conversion.calibration import read_calibration
from export.conversion.fidelity import check_fidelity, frechet, psnr_db
from export.conversion.onnx_export import export_onnx
from export.conversion.parity import check_parity
from export.conversion.precision import convert
from export.conversion.quantisation import calibration_inputs, convolutions, pointwise, quantise, rungs
from export.conversion.running import Exported
from export.conversion.trajectories import Trained, images_of, states
from export.errors import ExportError, ParityFailed
from export.head_export import export_head
from tests.export.heads import SCHEDULE, T_CUT, random_network

NETWORK = random_network(image_size=16)
# Random weights everywhere saturate the images: a quieter end keeps them within the range of the clip.
NETWORK.last.weight *= 0.2
HEAD = Trained(NETWORK, SCHEDULE, T_CUT)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return export_onnx(NETWORK)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


def silent(_stage: str) -> None:
    return None


def test_a_chain_passes_every_step_of_its_plan_with_every_label() -> None:
    seen = list(states(HEAD, 6, 20, seed=1))

    assert sorted({int(t) for state in seen for t in state.t}) == sorted(HEAD.plan(6))
    assert {int(label) for state in seen for label in state.label} == {0, 1, 2, 3}
    assert sum(len(state.t) for state in seen) == 20 * 7


def test_calibration_covers_the_range_of_t_and_all_labels() -> None:
    inputs = calibration_inputs(HEAD)

    t = np.concatenate([batch.t for batch in inputs])
    assert (t.min(), t.max()) == (HEAD.plan(24)[-2], T_CUT)
    assert np.diff(np.unique(t)).max() <= 5
    assert set(np.concatenate([batch.label for batch in inputs])) == {0, 1, 2, 3}


def test_images_given_for_calibration_are_noised_over_the_range_of_t() -> None:
    images = images_of(HEAD, 4, 20, seed=3)

    inputs = calibration_inputs(HEAD, images)

    assert [int(batch.t[0]) for batch in inputs] == list(HEAD.plan(24)[:-1])
    assert all(np.isfinite(batch.x).all() for batch in inputs)
    last = inputs[-1]
    nearest = np.abs(last.x[:, None] - images[None]).reshape(len(last.x), len(images), -1).mean(axis=2)
    assert nearest.min(axis=1).max() < 0.2


def test_eight_bits_are_measured_against_torch_and_written_into_the_manifest(
    checkpoint_path: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (33, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)

    export_head(
        checkpoint_path, tmp_path / "int8.bundle", precision="int8", calibration=tmp_path / "images.npy"
    )

    bundle = read_bundle(tmp_path / "int8.bundle")
    network = bundle.manifest.network
    step = bundle.manifest.gates[0].step
    assert network.precision == "int8"
    assert network.calibration is not None
    assert "of 17 images, noised; single steps measured on 16 others" in network.calibration
    assert len(network.kept_in_float) >= 2
    assert 1e-3 < step.relative_rms <= BARS["int8"].step_relative_rms
    kinds = operators(bundle.onnx)
    assert kinds["QuantizeLinear"] > 0
    assert kinds["InstanceNormalization"] > 0


def test_eight_bits_are_in_every_convolution_but_those_kept(whole: bytes) -> None:
    kept = rungs(whole)[0]

    model = onnx.load_from_string(quantise(whole, calibration_inputs(HEAD), kept, has_labels=True))

    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    in_float = {node.name for node in convolutions(model) if made_by.get(node.input[0]) != "DequantizeLinear"}
    assert in_float == set(kept)


def test_the_rungs_keep_more_and_more_in_float_and_err_less_and_less(whole: bytes) -> None:
    steps = rungs(whole)
    names = [node.name for node in convolutions(onnx.load_from_string(whole))]
    inputs = calibration_inputs(HEAD)
    lax = Bar(1.0, 1.0, 1.0)

    errors = [
        check_parity(HEAD, Exported(quantise(whole, inputs, kept, has_labels=True)), lax).relative_rms
        for kept in steps
    ]

    assert steps[0] == (names[0], names[-1])
    assert set(steps[0]) < set(steps[1]) < set(steps[2]) < set(names)
    assert set(pointwise(onnx.load_from_string(whole))) <= set(steps[1])
    assert errors[2] < errors[0]


def test_half_precision_halves_the_weights_and_keeps_the_interface(whole: bytes) -> None:
    half = convert(HEAD, "fp16", silent, images_of(HEAD, 4, 20, seed=3))

    assert half.calibration == "single steps measured on 20 images, noised"
    model = onnx.load_from_string(half.onnx)
    assert len(half.onnx) < 0.7 * len(whole)
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)
    }
    assert types["x"] == types["eps"] == onnx.TensorProto.FLOAT
    assert 1e-5 < half.gates[0].step.relative_rms <= BARS["fp16"].step_relative_rms
    # The trained network itself stays as it was.
    assert NETWORK.last.weight.dtype == torch.float32


def test_a_network_that_eight_bits_cannot_hold_is_refused_with_the_figures(tmp_path: Path) -> None:
    network = random_network(image_size=16)
    # A channel that nobody listens to, a million times louder than the rest, takes all 256 levels of its tensor.
    for layer in (*network.down, network.middle):
        if isinstance(layer, Block):
            layer.norm1.weight[0] = 1e6
            layer.conv1.weight[:, 0] = 0
    head = Trained(network, SCHEDULE, T_CUT)

    with pytest.raises(ParityFailed, match=r"no bundle was written.*higher precision") as refused:
        convert(head, "int8", silent)

    assert "\n" not in str(refused.value)


def test_images_that_drift_fail_the_gate_of_whole_images(whole: bytes) -> None:
    network = random_network(image_size=16)
    network.last.weight *= 0.2
    assert network.last.bias is not None
    network.last.bias += torch.tensor(0.2)

    with pytest.raises(ParityFailed, match="images of 4 steps agree"):
        check_fidelity(Trained(network, SCHEDULE, T_CUT), Exported(whole), BARS["fp32"])


def test_the_frechet_distance_is_that_of_the_gaussians() -> None:
    scipy_linalg = pytest.importorskip("scipy.linalg")
    generator = np.random.default_rng(0)
    a = generator.standard_normal((60, 1, 2, 3)).astype(np.float32)
    b = (0.5 * generator.standard_normal((50, 1, 2, 3)) + 1).astype(np.float32)
    rows = [images.reshape(len(images), -1).astype(np.float64) for images in (a, b)]
    covariances = [np.cov(row, rowvar=False) for row in rows]
    root = scipy_linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((rows[0].mean(0) - rows[1].mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)

    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert np.isnan(frechet(a, np.full_like(b, np.nan)))


def test_psnr_is_that_of_images_in_minus_one_to_one() -> None:
    image = np.zeros((1, 1, 2, 2), np.float32)

    assert psnr_db(image + 0.2, image) == pytest.approx(20)
    assert psnr_db(image, image) == 150
    assert np.isnan(psnr_db(image * np.nan, image))


@pytest.mark.parametrize("shape", [(40, 3, 4, 4), (40, 4, 4, 3)])
def test_calibration_images_are_read_in_both_orders_and_as_bytes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "images.npz", images=np.full(shape, 255, np.uint8))
    np.save(tmp_path / "images.npy", np.full(shape, -1.0))

    assert read_calibration(tmp_path / "images.npz", (3, 4, 4)).shape == (40, 3, 4, 4)
    assert read_calibration(tmp_path / "images.npz", (3, 4, 4)).max() == 1
    assert read_calibration(tmp_path / "images.npy", (3, 4, 4)).min() == -1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((31, 1, 8, 8)), "32 or more"),
        (np.zeros((40, 1, 4, 4)), "32 or more"),
        (np.zeros(()), "32 or more"),
        (np.full((40, 8, 8), 2.0), "neither"),
        (np.full((40, 8, 8), np.nan), "neither"),
        (np.zeros((40, 8, 8), np.int64), "neither"),
        (np.array([{}], dtype=object), "cannot read"),
    ],
)
def test_what_are_no_calibration_images_is_refused(tmp_path: Path, images: np.ndarray, message: str) -> None:
    np.save(tmp_path / "images.npy", images, allow_pickle=True)

    with pytest.raises(ExportError, match=message):
        read_calibration(tmp_path / "images.npy", (1, 8, 8))


@pytest.mark.parametrize("name", ["images.npy", "images.npz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_calibration_images_that_are_cut_short_are_refused(tmp_path: Path, name: str, share: float) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    np.save(tmp_path / "images.npy", images)
    np.savez_compressed(tmp_path / "images.npz", images=images)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: round(share * len(content))])

    with pytest.raises(ExportError, match="cannot read images"):
        read_calibration(tmp_path / name, (1, 8, 8))


def test_a_packed_image_that_is_damaged_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "images.npz", images=images)
    content = bytearray((tmp_path / "images.npz").read_bytes())
    content[200:900] = bytes(700)
    (tmp_path / "images.npz").write_bytes(content)

    with pytest.raises(ExportError, match="cannot read images"):
        read_calibration(tmp_path / "images.npz", (1, 8, 8))
