from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from broker.codec import digest, encode
from diffusion.schedule import NoiseSchedule
from server_worker.compute import memory_as_error
from server_worker.errors import ContractMismatch, Damaged, NoMemory, NotFinite
from server_worker.samples.store import SampleBatch, SampleStore
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.plan import Precision, TrainPlan
from server_worker.training.ranks import Ranks
from server_worker.training.trainer import Trainer
from tests.server_worker.backbones import CPU, SCHEDULE, SHAPE, UNET, T, sample_batch

PLAN = TrainPlan(lr=2e-3, weight_decay=0.0, warmup_steps=5, gradient_norm=1.0, ema_decay=0.99, seed=3)


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    store = SampleStore(Storage(tmp_path))
    for seed in range(6):
        message = sample_batch(seed, t_cut=20 + 10 * (seed % 3))
        store.add(message, digest(encode(message)), f"client{seed % 2}", "d")
    return store


def trainer(schedule: NoiseSchedule = SCHEDULE, plan: TrainPlan = PLAN) -> Trainer:
    return Trainer(UNET, schedule, plan, CPU)


def run(trained: Trainer, store: SampleStore, steps: int) -> list[float]:
    return [trained.step(trained.next_batch(store, 8)).loss for _ in range(steps)]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("taken", [3, 7], ids=["in the warm-up", "in the cosine"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_resumed_from_a_checkpoint_is_bit_equal_to_training_without_a_break(
    store: SampleStore, tmp_path: Path, taken: int, precision: Precision
) -> None:
    torch.set_num_threads(1)
    plan = replace(PLAN, steps=12, precision=precision)
    unbroken, first = trainer(plan=plan), trainer(plan=plan)
    losses = run(unbroken, store, 12)
    run(first, store, taken)
    checkpoints.save(Storage(tmp_path), first.checkpoint())
    loaded = checkpoints.load_newest(Storage(tmp_path))
    assert loaded is not None
    second = trainer(plan=replace(plan, seed=99))  # what it starts from must not matter
    second.restore(loaded)
    assert second.step_number == taken
    assert run(second, store, 12 - taken) == losses[taken:]
    one, other = unbroken.checkpoint(), second.checkpoint()
    assert same(one.tensors, other.tensors)
    assert one.state == other.state
    assert same(unbroken.averaged_weights(), second.averaged_weights())


def test_a_step_is_the_same_whatever_was_drawn_before_it(store: SampleStore) -> None:
    torch.set_num_threads(1)
    one, other = trainer(), trainer()
    torch.randn(100)
    store.batch(np.random.default_rng(0), 5)
    assert run(one, store, 3) == run(other, store, 3)


def test_bfloat16_trains_nearly_as_float32_does_and_keeps_its_weights_in_float32(store: SampleStore) -> None:
    full, half = trainer(), trainer(plan=replace(PLAN, precision="bfloat16"))
    losses, others = run(full, store, 20), run(half, store, 20)

    assert losses != others
    assert others == pytest.approx(losses, rel=0.02)
    tensors = half.checkpoint().tensors.items()
    assert {tensor.dtype for name, tensor in tensors if name.startswith("model.")} == {torch.float32}


def test_a_checkpoint_that_lacks_a_part_is_damaged(store: SampleStore) -> None:
    trained = trainer()
    run(trained, store, 2)
    whole = trained.checkpoint()
    for prefix in ("model.", "ema.", "optimiser."):
        name = next(name for name in whole.tensors if name.startswith(prefix))
        tensors = {key: value for key, value in whole.tensors.items() if key != name}
        with pytest.raises(Damaged, match="step 2 is incomplete"):
            trainer().restore(replace(whole, tensors=tensors))
    with pytest.raises(Damaged, match="step 2 is incomplete"):
        trainer().restore(replace(whole, state={**whole.state, "seed": None} | {"samples_seen": "many"}))


def test_the_loss_falls_on_data_that_can_be_learned() -> None:
    # One image, the same everywhere: what is left to learn is large.
    rng = np.random.default_rng(0)
    signal, noise = (
        float(value) for value in (SCHEDULE.alpha_bar[20] ** 0.5, (1 - SCHEDULE.alpha_bar[20]) ** 0.5)
    )
    trained = trainer()
    losses = []
    for _ in range(150):
        x = (signal + noise * rng.standard_normal((16, *SHAPE))).astype(np.float32)
        batch = SampleBatch(
            x, np.full(16, 20), np.zeros(16, np.int64), np.zeros(16, np.int64), np.zeros_like(x)
        )
        losses.append(trained.step(batch).loss)
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_pairs_and_releases_train_together() -> None:
    rng = np.random.default_rng(0)
    x, noise = (rng.standard_normal((6, *SHAPE)).astype(np.float32) for _ in range(2))
    t = np.array([0, 0, 0, 50, 70, 99])
    report = trainer().step(SampleBatch(x, np.full(6, 40), np.full(6, -1), t, noise))
    assert np.isfinite(report.loss)
    assert set(report.by_level) <= {"low", "middle", "high"}
    # A fresh network predicts zero: the loss of a pair is then the mean square of its own noise.
    pairs_only = trainer().step(SampleBatch(x[3:], np.full(3, 40), np.full(3, -1), t[3:], noise[3:]))
    assert pairs_only.loss == pytest.approx(float((noise[3:] ** 2).mean()), rel=1e-5)


def test_the_loss_is_told_by_third_of_the_noise_range() -> None:
    x = np.zeros((3, *SHAPE), np.float32)
    noise = np.stack([np.full(SHAPE, value, np.float32) for value in (1.0, 2.0, 3.0)])
    report = trainer().step(
        SampleBatch(x, np.full(3, 1), np.full(3, -1), np.array([T // 3, T // 2, T]), noise)
    )
    assert report.by_level == pytest.approx({"low": 1.0, "middle": 4.0, "high": 9.0})


def test_a_checkpoint_of_another_schedule_is_refused_with_both_ids(store: SampleStore) -> None:
    trained = trainer()
    other = NoiseSchedule.cosine(T)
    with pytest.raises(ContractMismatch, match=f"{SCHEDULE.schedule_id}.*{other.schedule_id}"):
        trainer(schedule=other).restore(trained.checkpoint())


def test_a_damaged_newest_checkpoint_costs_steps_and_not_the_run(store: SampleStore, tmp_path: Path) -> None:
    storage, trained = Storage(tmp_path), trainer()
    for _ in range(3):
        run(trained, store, 1)
        checkpoints.save(storage, trained.checkpoint())
    assert storage.folders("checkpoints") == ["000000000002", "000000000003"]
    path = tmp_path / "checkpoints" / "000000000003" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    loaded = checkpoints.load_newest(storage)
    assert loaded is not None
    assert loaded.step == 2
    (tmp_path / "checkpoints" / "000000000002" / "state.json").write_text("{")
    with pytest.raises(Damaged, match="move the folder away to begin anew"):
        checkpoints.load_newest(storage)


def test_a_training_that_went_back_keeps_its_new_checkpoints_and_not_those_it_left(
    store: SampleStore, tmp_path: Path
) -> None:
    storage, trained = Storage(tmp_path), trainer()
    run(trained, store, 1)
    moment = trained.checkpoint()
    for step in (1000, 1500):
        checkpoints.save(storage, replace(moment, step=step))
        (tmp_path / "checkpoints" / f"{step:012d}" / "tensors.safetensors").write_bytes(b"damaged")

    for step in (100, 200, 300):
        checkpoints.save(storage, replace(moment, step=step))
        loaded = checkpoints.load_newest(storage)
        assert loaded is not None
        assert loaded.step == step

    assert storage.folders("checkpoints") == [
        *("000000000200", "000000000300"),
        *("abandoned-000000001000", "abandoned-000000001500"),
    ]
    abandoned = tmp_path / "checkpoints" / "abandoned-000000001500"
    assert sorted(path.name for path in abandoned.iterdir()) == ["state.json", "tensors.safetensors"]


def test_a_checkpoint_that_is_not_finite_is_neither_saved_nor_loaded(
    store: SampleStore, tmp_path: Path
) -> None:
    storage, trained = Storage(tmp_path), trainer()
    run(trained, store, 1)
    checkpoints.save(storage, trained.checkpoint())
    moment = trained.checkpoint()
    name = next(name for name in moment.tensors if name.startswith("optimiser."))
    tensors = {**moment.tensors, name: torch.full_like(moment.tensors[name], float("inf"))}
    with pytest.raises(NotFinite, match="step 2 is not saved"):
        checkpoints.save(storage, replace(moment, step=2, tensors=tensors))
    assert storage.folders("checkpoints") == ["000000000001"]


@pytest.mark.parametrize("value", [3e38, -3e38, float("nan")])
def test_a_batch_without_a_finite_gradient_changes_no_weight_and_costs_one_step(
    store: SampleStore, value: float
) -> None:
    torch.set_num_threads(1)
    trained = trainer()
    run(trained, store, 3)
    before = trained.checkpoint()
    poison = trained.next_batch(store, 8)
    x = poison.x.copy()
    x[2] = value

    report = trained.step(replace(poison, x=x))

    assert not report.is_updated
    assert trained.step_number == 4
    assert trained.samples_seen == 32
    assert same(before.tensors, trained.checkpoint().tensors)
    assert np.isfinite(run(trained, store, 3)).all()
    assert checkpoints.is_finite(trained.checkpoint().tensors)


def test_whose_samples_were_there_is_remembered_for_good(store: SampleStore) -> None:
    trained, other = trainer(), trainer()
    run(trained, store, 1)
    trained.note_clients({"a": 5, "b": 2})
    trained.note_clients({"b": 7})
    trained.note_clients({"a": 1})
    assert trained.samples_by_client == {"a": 5, "b": 7}

    other.restore(trained.checkpoint())
    assert other.samples_by_client == {"a": 5, "b": 7}
    whole = trained.checkpoint()
    state = {key: value for key, value in whole.state.items() if key != "samples_by_client"}
    other.restore(replace(whole, state=state))
    assert other.samples_by_client == {}, "a checkpoint of before says nothing"


def test_a_gpu_without_room_is_one_line_that_says_what_to_do() -> None:
    apart_from_nobody = Ranks(rank=1, size=2)
    with pytest.raises(NoMemory, match="64 samples: lower --batch-size") as caught:  # noqa: SIM117
        with memory_as_error(64), apart_from_nobody.together():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
    assert "\n" not in str(caught.value)
