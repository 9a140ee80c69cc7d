from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from broker.messages import DenoiseV1
from diffusion import sampling
from diffusion.noise import initial_noise
from server_worker.denoising.engine import Engine, prepare
from server_worker.denoising.scheduler import INTERACTIVE, Job, Limits, Scheduler
from server_worker.errors import CannotServe
from server_worker.storage import Storage
from server_worker.versions import Backbone
from tests.server_worker.backbones import CPU, SCHEDULE, SHAPE, T, publish_backbone


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return publish_backbone(Storage(tmp_path))


def request(number: int = 0, **fields: object) -> DenoiseV1:
    values: dict[str, object] = {
        "request_id": f"{number:032x}",
        "shape": SHAPE,
        "n": 3,
        "schedule_id": SCHEDULE.schedule_id,
        "plan": (T, 80, 60, 40, 20),
        "sampler": "ddim",
        "clip": 1.0,
        "seed": 100 + number,
        "dtype": "float32",
    }
    return DenoiseV1.model_validate({**values, **fields})


MIXED = (
    request(1),
    request(2, n=5, plan=(T, 70, 33), sampler="ddpm", clip=None),
    request(3, n=2, plan=tuple(range(T, 19, -5)), sampler="dpmpp2m", labels=np.array([0, 2], np.int32)),
    request(4, n=1, plan=(T, 50), eta=0.7),
    request(5, n=4, plan=(T, 90, 60, 30), eta=1.0, labels=np.array([1, 1, 0, 2], np.int32), clip=2.0),
)


def serve(
    backbones: dict[str, Backbone], requests: tuple[DenoiseV1, ...], max_batch: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Run requests through scheduler and engine together; samples by request id."""
    scheduler, engine = Scheduler(Limits(max_batch)), Engine(CPU)
    results = {each.request_id: np.zeros((each.n, *each.shape), np.float32) for each in requests}
    arriving = list(requests)
    while arriving or not scheduler.idle:
        if arriving:
            each = arriving.pop(0)
            engine.accept(each.request_id, prepare(each, backbones[each.request_id]))
            scheduler.add(Job(each.request_id, "c", each.n, len(each.plan) - 1, INTERACTIVE, 0.0))
        for group in scheduler.admit():
            engine.begin(group)
        engine.step(scheduler.running)
        for group in scheduler.advance():
            results[group.key][group.first : group.first + group.count] = engine.finish(group)
    for each in requests:
        engine.forget(each.request_id)
    assert engine.versions_in_use == frozenset()
    return results


def reference(backbone: Backbone, each: DenoiseV1) -> npt.NDArray[np.float32]:
    """The same request by the plain sampling loop, alone."""
    labels = (
        torch.full((each.n,), 3) if each.labels is None else torch.from_numpy(each.labels.astype(np.int64))
    )
    x = torch.from_numpy(initial_noise(each.seed, np.arange(each.n), T, SHAPE))
    with torch.inference_mode():
        out = sampling.run(
            SCHEDULE,
            lambda x_t, t: backbone.network(x_t, t, labels),
            x,
            each.plan,
            each.sampler,
            eta=each.eta,
            clip=each.clip,
            seeds=each.seed,
            samples=np.arange(each.n),
        )
    result: npt.NDArray[np.float32] = out.numpy()
    return result


@pytest.mark.parametrize("max_batch", [1, 4, 64])
def test_a_request_comes_out_the_same_alone_and_mixed_with_others(backbone: Backbone, max_batch: int) -> None:
    mixed = serve({each.request_id: backbone for each in MIXED}, MIXED, max_batch)
    for each in MIXED:
        alone = reference(backbone, each)
        size = float(
            np.abs(alone).max()
        )  # unclipped, random weights throw samples far out: measure against their size
        assert size > 0.1
        np.testing.assert_allclose(mixed[each.request_id], alone, atol=1e-5 * max(1.0, size), rtol=0)


def test_requests_on_two_versions_share_the_loop_and_keep_theirs(backbone: Backbone, tmp_path: Path) -> None:
    newer = publish_backbone(Storage(tmp_path), seed=1)
    one, other = request(1), request(2, seed=101)
    together = serve({one.request_id: backbone, other.request_id: newer}, (one, other), 64)
    np.testing.assert_allclose(together[one.request_id], reference(backbone, one), atol=1e-5, rtol=0)
    np.testing.assert_allclose(together[other.request_id], reference(newer, other), atol=1e-5, rtol=0)
    assert np.abs(together[one.request_id] - together[other.request_id]).max() > 1e-3


def test_samples_at_different_steps_share_one_network_call(backbone: Backbone) -> None:
    calls: list[list[int]] = []
    backbone.network.register_forward_pre_hook(lambda _, args: calls.append(args[1].tolist()))
    serve({each.request_id: backbone for each in MIXED}, MIXED, 64)
    assert len(calls) < sum(len(each.plan) - 1 for each in MIXED)
    assert any(len(set(steps)) >= 3 for steps in calls)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schedule_id": "0" * 16}, "schedule_mismatch"),
        ({"shape": (3, 8, 8)}, "shape_mismatch"),
        ({"plan": (T, 50, 10)}, "below_trained_cut"),
        ({"plan": (90, 50, 30)}, "bad_plan"),
        ({"labels": np.array([0, 1, 3], np.int32)}, "label_out_of_range"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(
    backbone: Backbone, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(CannotServe) as refusal:
        prepare(request(0, **fields), backbone)
    assert refusal.value.reason == reason


def test_a_schedule_mismatch_names_both_schedules(backbone: Backbone) -> None:
    with pytest.raises(CannotServe, match=f"{'0' * 16}.*{SCHEDULE.schedule_id}"):
        prepare(request(schedule_id="0" * 16), backbone)


def test_labels_are_refused_by_a_backbone_without_classes(backbone: Backbone) -> None:
    without = replace(backbone, manifest=replace(backbone.manifest, num_classes=None))
    with pytest.raises(CannotServe) as refusal:
        prepare(request(labels=np.array([0, 1, 2], np.int32)), without)
    assert refusal.value.reason == "unexpected_labels"
