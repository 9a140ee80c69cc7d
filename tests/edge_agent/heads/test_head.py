import dataclasses
import subprocess
import sys
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog
import torch
from torch import Tensor

from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.sampling import run
from edge_agent.errors import HeadError
from edge_agent.fleet.memory import rss_bytes
from edge_agent.heads.bound_chain import BoundChain
from edge_agent.heads.head import Head
from edge_agent.heads.provider import check_provider, choose_provider
from export.bundle.bundle import member_digests, read_bundle, write_bundle
from export.conversion.step_model import step_model
from export.head_export import export_head
from export.onnx_runtime import ort
from tests.conftest import WAIT_SECONDS
from tests.export.heads import SCHEDULE, T_CUT, random_network, write_checkpoint

COUNT = 5
SEEDS = np.full(COUNT, 77, np.uint64)
SAMPLES = np.arange(COUNT, dtype=np.int64)
LABELS = np.array([0, 1, 2, 3, 0], np.int32)
LATENTS = initial_noise(SEEDS, SAMPLES, SCHEDULE.T, (1, 8, 8))
PLAN = plan(SCHEDULE, T_CUT, 0, 6)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("head")
    out = directory / "head.bundle"
    export_head(write_checkpoint(directory / "head.safetensors", random_network()), out)
    return out


@pytest.fixture(scope="module")
def head(bundle_path: Path) -> Head:
    return Head.load(bundle_path, provider="cpu", threads=1)


def finish(head: Head, **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"seeds": SEEDS, "samples": SAMPLES, "labels": LABELS} | changes
    x = arguments.pop("x", LATENTS)
    return head.finish(x, arguments.pop("plan", PLAN), **arguments)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp2m"])
def test_finishing_with_the_head_equals_finishing_with_the_trained_network(head: Head, sampler: str) -> None:
    network, labels = random_network(), torch.from_numpy(LABELS.astype(np.int64))

    def predict_eps(x: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = network(x, t, labels)
        return predicted

    expected = run(
        SCHEDULE, predict_eps, torch.from_numpy(LATENTS), PLAN, sampler, clip=1.0, seeds=77, samples=SAMPLES
    )

    np.testing.assert_allclose(finish(head, sampler=sampler), expected.numpy(), atol=1e-4)


def test_an_image_does_not_depend_on_who_else_is_in_its_batch(head: Head) -> None:
    together = finish(head, sampler="ddpm")
    alone = finish(
        head, sampler="ddpm", x=LATENTS[3:4], seeds=SEEDS[3:4], samples=SAMPLES[3:4], labels=LABELS[3:4]
    )

    np.testing.assert_allclose(alone[0], together[3], atol=1e-5)


def test_no_labels_are_the_label_for_none(head: Head) -> None:
    unlabelled = finish(head, labels=None)

    np.testing.assert_array_equal(unlabelled, finish(head, labels=np.full(COUNT, 3)))
    assert not np.allclose(unlabelled, finish(head, labels=np.zeros(COUNT, np.int64)))


def test_every_step_reports_itself_and_the_time_it_took(head: Head) -> None:
    steps: list[tuple[int, int, float]] = []

    finish(head, on_step=lambda t, s, seconds: steps.append((t, s, seconds)))

    assert [(t, s) for t, s, _ in steps] == list(pairwise(PLAN))
    assert all(seconds > 0 for *_, seconds in steps)


def test_half_precision_latents_are_finished_in_single_precision(head: Head) -> None:
    finished = finish(head, x=LATENTS.astype(np.float16))

    assert finished.dtype == np.float32
    assert np.isfinite(finished).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan": (T_CUT + 1, 0)}, f"owns t=1..{T_CUT}; ask the server to denoise down to {T_CUT}"),
        ({"plan": (10, 20)}, "cannot follow the plan"),
        ({"plan": ()}, "cannot follow the plan"),
        ({"x": LATENTS[:, :, :4]}, r"finishes \(B, 1, 8, 8\), got \(5, 1, 4, 8\)"),
        ({"x": LATENTS[0]}, "finishes"),
        ({"x": LATENTS[:0], "labels": None}, "finishes"),
        ({"x": np.where(np.arange(8) == 3, np.nan, LATENTS)}, "not all finite"),
        ({"x": LATENTS.astype(np.int64)}, "not all finite"),
        ({"labels": LABELS[:2]}, r"need \(5,\) integer labels"),
        ({"labels": LABELS.astype(np.float32)}, "integer labels"),
        ({"labels": LABELS + 1}, r"labels 0\.\.2 and 3 for none, got 1\.\.4"),
        ({"labels": LABELS - 1}, "got -1"),
        ({"sampler": "euler"}, "cannot finish"),
    ],
)
def test_what_the_head_cannot_do_is_refused(head: Head, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        finish(head, **changes)


def test_an_unconditional_head_takes_no_labels(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "head.safetensors", random_network(num_classes=None))
    export_head(checkpoint, tmp_path / "head.bundle")
    head = Head.load(tmp_path / "head.bundle", provider="cpu", threads=1)

    assert finish(head, labels=None).shape == LATENTS.shape
    with pytest.raises(HeadError, match="knows no labels"):
        finish(head)


def test_cuda_asked_for_and_absent_is_an_error_that_says_what_there_is(bundle_path: Path) -> None:
    with pytest.raises(
        HeadError, match=r"CUDAExecutionProvider is not available, only CPUExecutionProvider; .*edge-gpu"
    ):
        choose_provider("cuda", ["CPUExecutionProvider"])


def test_cuda_asked_for_and_absent_falls_back_only_where_that_is_allowed_and_says_so(
    bundle_path: Path,
) -> None:
    with pytest.raises(HeadError, match="--provider-fallback cpu"):
        Head.load(bundle_path, provider="cuda", threads=1)
    with structlog.testing.capture_logs() as logs:
        head = Head.load(bundle_path, provider="cuda", threads=1, fallback="cpu")

    assert head.provider == "cpu"
    assert head.fallback is not None
    assert "CUDAExecutionProvider is not available" in head.fallback
    assert [entry["log_level"] for entry in logs if entry["event"] == "head_fell_back_to_cpu"] == ["error"]
    assert finish(head).shape == LATENTS.shape


def test_a_head_that_runs_where_it_was_asked_to_has_not_fallen_back(head: Head, bundle_path: Path) -> None:
    assert head.fallback is None
    assert Head.load(bundle_path, provider="cpu", threads=1, fallback="cpu").fallback is None


def test_a_fallback_does_not_excuse_a_bad_bundle(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="not a usable bundle"):
        Head.load(tmp_path / "absent.bundle", provider="cuda", fallback="cpu")


def test_a_half_precision_head_runs_on_the_cpu_with_a_warning(tmp_path: Path, head: Head) -> None:
    checkpoint = write_checkpoint(tmp_path / "head.safetensors", random_network())
    export_head(checkpoint, tmp_path / "half.bundle", precision="fp16")

    with structlog.testing.capture_logs() as logs:
        half = Head.load(tmp_path / "half.bundle", provider="cpu", threads=1)

    assert "head_is_slow_here" in [entry["event"] for entry in logs]
    np.testing.assert_allclose(finish(half), finish(head), atol=0.1)


def bound(bundle_path: Path) -> BoundChain:
    """What a head on CUDA uses, here with the buffers of the CPU."""
    bundle = read_bundle(bundle_path)
    session = ort.InferenceSession(bundle.onnx, providers=["CPUExecutionProvider"])
    return BoundChain(session, "cpu", bundle.schedule)


@pytest.mark.parametrize("clip", [1.0, 0.3, None])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_chain_whose_x_stays_on_the_device_makes_the_same_images(
    head: Head, bundle_path: Path, clip: float | None, steps: int
) -> None:
    path = plan(SCHEDULE, T_CUT, 0, steps)
    before = LATENTS.copy()
    seen: list[tuple[int, int]] = []

    finished = bound(bundle_path).run(
        LATENTS, LABELS.astype(np.int64), path, clip, lambda t, s, _seconds: seen.append((t, s))
    )

    np.testing.assert_array_equal(LATENTS, before)
    np.testing.assert_allclose(finished, finish(head, plan=path, clip=clip), atol=1e-5)
    assert seen == list(pairwise(path))


def test_two_batches_of_one_bound_chain_do_not_touch_each_other(bundle_path: Path) -> None:
    chain = bound(bundle_path)
    labels = LABELS.astype(np.int64)

    first = chain.run(LATENTS, labels, PLAN, 1.0)
    kept = first.copy()
    second = chain.run(-LATENTS[:2], labels[:2], PLAN, 1.0)

    assert second.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(chain.run(LATENTS, labels, PLAN, 1.0), kept)


def test_the_step_that_the_agent_carries_is_the_one_that_is_built() -> None:
    carried = files("edge_agent.heads").joinpath("ddim_step.onnx").read_bytes()

    assert onnx.load_from_string(carried).graph == onnx.load_from_string(step_model()).graph


def test_auto_takes_what_there_is() -> None:
    assert choose_provider("auto", ["CPUExecutionProvider"]) == "CPUExecutionProvider"
    assert (
        choose_provider("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"]) == "CUDAExecutionProvider"
    )
    assert choose_provider("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"]) == "CPUExecutionProvider"


def test_a_session_that_fell_back_to_the_cpu_is_refused(bundle_path: Path) -> None:
    fallen_back = ort.InferenceSession(read_bundle(bundle_path).onnx, providers=["CPUExecutionProvider"])

    with pytest.raises(
        HeadError, match="CUDAExecutionProvider was chosen, but onnxruntime runs the head on CPU"
    ):
        check_provider("CUDAExecutionProvider", fallen_back.get_providers())


def test_the_head_says_where_it_runs(head: Head) -> None:
    assert head.provider == "cpu"


def test_a_damaged_bundle_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    content = bytearray(bundle_path.read_bytes())
    content[len(content) // 2] ^= 0x10
    (tmp_path / "head.bundle").write_bytes(content)

    with pytest.raises(HeadError, match="not a usable bundle"):
        Head.load(tmp_path / "head.bundle")


def test_a_bundle_whose_network_is_none_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundle_path)
    digests = member_digests(b"nonsense", bundle.schedule, bundle.golden)
    manifest = bundle.manifest.model_copy(update={"digests": digests})
    write_bundle(tmp_path / "head.bundle", dataclasses.replace(bundle, manifest=manifest, onnx=b"nonsense"))

    with pytest.raises(HeadError, match="cannot load ward"):
        Head.load(tmp_path / "head.bundle", provider="cpu")


def test_a_bundle_whose_manifest_describes_other_images_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    bundle = read_bundle(bundle_path)
    golden = dataclasses.replace(
        bundle.golden, x=bundle.golden.x.repeat(3, axis=1), eps=bundle.golden.eps.repeat(3, axis=1)
    )
    digests = member_digests(bundle.onnx, bundle.schedule, golden)
    other = bundle.manifest.model_copy(update={"image_shape": (3, 8, 8), "digests": digests})
    write_bundle(tmp_path / "head.bundle", dataclasses.replace(bundle, manifest=other, golden=golden))

    with pytest.raises(HeadError, match="as its manifest says"):
        Head.load(tmp_path / "head.bundle", provider="cpu")


def test_no_threads_are_refused(bundle_path: Path) -> None:
    with pytest.raises(HeadError, match="0 threads"):
        Head.load(bundle_path, provider="cpu", threads=0)


def test_a_head_is_loaded_and_run_without_torch(bundle_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
import numpy as np
from edge_agent.heads.head import Head
head = Head.load(Path({str(bundle_path)!r}), provider="cpu", threads=1)
x = head.finish(np.ones((1, 1, 8, 8), np.float32), (5, 0), seeds=np.zeros(1, np.uint64), samples=np.zeros(1, np.int64))
assert x.shape == (1, 1, 8, 8)
assert not {{"torch", "onnx", "cryptography"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=WAIT_SECONDS)


def test_a_head_at_rest_gives_back_what_its_largest_batch_needed(bundle_path: Path) -> None:
    head = Head.load(bundle_path, provider="cpu", threads=1)
    x = np.zeros((2048, *head.manifest.image_shape), np.float32)
    t, label = np.full(2048, head.manifest.t_first), np.zeros(2048, np.int64)
    expected = head.predict(x, t, label)
    before_bytes = rss_bytes()

    head.rest()

    assert before_bytes - rss_bytes() > 10e6
    np.testing.assert_array_equal(head.predict(x, t, label), expected)
