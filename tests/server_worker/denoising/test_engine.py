import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch._dynamo.utils import counters

from broker.contract.denoise import DenoiseV1
from diffusion import sampling
from diffusion.noise import initial_noise, noise_bits, normals
from server_worker.denoising.arena import Arena
from server_worker.denoising.chain import prepare
from server_worker.denoising.device_noise import normals_on
from server_worker.denoising.engine import Engine
from server_worker.denoising.runner import Execution
from server_worker.denoising.scheduler import INTERACTIVE, Group, Job, Limits, Scheduler
from server_worker.denoising.warm_up import warm_up
from server_worker.denoising.watchdog import Watchdog
from server_worker.errors import CannotServe
from server_worker.storage import Storage
from server_worker.versions import Backbone
from tests.server_worker.backbones import CPU, SCHEDULE, SHAPE, T, publish_backbone

COMPILED_SIZE = 4
"""A size takes the compiler twenty seconds, and once it has been made it is taken from torch's cache."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slowed down by a second thread, by orders of magnitude when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    backbones: dict[str, Backbone],
    requests: tuple[DenoiseV1, ...],
    max_batch: int,
    execution: Execution = Execution(CPU),  # noqa: B008  # frozen
) -> dict[str, npt.NDArray[np.float32]]:
    """Run requests through scheduler and engine together; samples by request id."""
    scheduler, engine = Scheduler(Limits(max_batch)), Engine(execution)
    results = {each.request_id: np.zeros((each.n, *each.shape), np.float32) for each in requests}
    arriving = list(requests)
    while arriving or not scheduler.idle:
        if arriving:
            each = arriving.pop(0)
            engine.accept(each.request_id, prepare(each, backbones[each.request_id]))
            scheduler.add(Job(each.request_id, "c", each.n, len(each.plan) - 1, INTERACTIVE))
        engine.launch(scheduler.select())
        engine.wait()
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


def test_a_compiled_and_padded_step_is_the_same_step(backbone: Backbone, tmp_path: Path) -> None:
    newer = publish_backbone(Storage(tmp_path), seed=1)
    execution = Execution(CPU, sizes=(COMPILED_SIZE,))
    backbones = {each.request_id: newer if each.seed == 105 else backbone for each in MIXED}
    compiled = serve(backbones, MIXED, COMPILED_SIZE, execution)
    eager = serve(backbones, MIXED, COMPILED_SIZE)
    for each in MIXED:
        size = float(np.abs(eager[each.request_id]).max())
        np.testing.assert_allclose(
            compiled[each.request_id], eager[each.request_id], atol=1e-5 * max(1.0, size), rtol=0
        )


def test_after_the_warm_up_nothing_is_compiled_any_more(backbone: Backbone) -> None:
    execution = Execution(CPU, sizes=(2, COMPILED_SIZE))
    engine = Engine(execution)
    runner = engine.install(backbone)
    assert warm_up(runner, execution, 4, watchdog=Watchdog(600.0)) is not None
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    for n, sampler in ((1, "ddim"), (2, "dpmpp2m"), (3, "ddpm"), (4, "ddim")):
        each = request(n, n=n, sampler=sampler)
        engine.accept(each.request_id, prepare(each, backbone))
        for done in range(4):
            engine.launch([Group(each.request_id, 0, n, done)])
        engine.finish(Group(each.request_id, 0, n, 4))
        engine.forget(each.request_id)
    assert counters["stats"]["unique_graphs"] == before


def test_a_warm_up_can_be_stopped(backbone: Backbone) -> None:
    calls: list[int] = []
    backbone.network.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    runner = Engine(Execution(CPU)).install(backbone)
    stopped = warm_up(runner, Execution(CPU), None, watchdog=Watchdog(60.0), stop=lambda: len(calls) >= 3)
    assert (stopped, len(calls)) == (None, 3)


def test_bfloat16_changes_the_network_a_little_and_the_noise_not_at_all(backbone: Backbone) -> None:
    one = request(1)
    exact = serve({one.request_id: backbone}, (one,), 8)[one.request_id]
    rounded = serve({one.request_id: backbone}, (one,), 8, Execution(CPU, "bfloat16"))[one.request_id]
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.05


def test_the_memory_of_a_version_is_released_with_its_last_request(tmp_path: Path) -> None:
    backbone = publish_backbone(Storage(tmp_path))
    engine = Engine(Execution(CPU))
    old = weakref.ref(engine.install(backbone).backbone.network)
    engine.accept("r", prepare(request(1), backbone))
    del backbone
    engine.install(publish_backbone(Storage(tmp_path), seed=1))
    assert engine.versions_loaded == {1, 2}
    engine.forget("r")
    assert engine.versions_loaded == {2}
    gc.collect()
    assert old() is None


def test_a_compiled_network_is_kept_for_the_next_version_and_serves_its_weights(
    backbone: Backbone, tmp_path: Path
) -> None:
    execution = Execution(CPU, sizes=(COMPILED_SIZE,))
    engine = Engine(execution)
    first = engine.install(backbone)
    engine.install(publish_backbone(Storage(tmp_path), seed=1))
    third = publish_backbone(Storage(tmp_path), seed=2)
    expected = reference(third, request(7))
    runner = engine.install(third)
    assert runner is first
    engine.accept("r", prepare(request(7), runner.backbone))
    scheduler = Scheduler(Limits(4))
    scheduler.add(Job("r", "c", 3, 4, INTERACTIVE))
    done: tuple[Group, ...] = ()
    while not done:
        engine.launch(scheduler.select())
        done = scheduler.advance()
    np.testing.assert_allclose(engine.finish(done[0]), expected, atol=1e-5, rtol=0)


def test_the_arena_grows_with_what_runs_and_gives_its_rows_back() -> None:
    arena = Arena(SHAPE, CPU)
    samples = np.random.default_rng(0).standard_normal((150, *SHAPE)).astype(np.float32)
    first, second = arena.put(torch.from_numpy(samples[:100])), arena.put(torch.from_numpy(samples[100:]))
    assert len({*first.tolist(), *second.tolist()}) == arena.occupied == 150
    np.testing.assert_array_equal(
        arena.read(np.concatenate((second, first))), samples[[*range(100, 150), *range(100)]]
    )
    arena.free(first)
    assert arena.occupied == 50
    again = arena.put(torch.from_numpy(samples[:100]))
    np.testing.assert_array_equal(arena.read(second), samples[100:])
    np.testing.assert_array_equal(arena.read(again), samples[:100])


def test_normals_made_by_torch_are_those_made_by_numpy() -> None:
    bits = noise_bits(np.arange(6), np.arange(6), 17, (3, 5, 7))
    assert bits.shape == (6, 106)
    assert (bits >> np.uint64(63)).any(), "no word has the highest bit, which torch takes for a sign"
    np.testing.assert_allclose(normals_on(CPU, bits).numpy(), normals(bits), atol=1e-12, rtol=0)
