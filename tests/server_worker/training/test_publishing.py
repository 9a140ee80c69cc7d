"""Versions are judged on releases that training never saw, and BEST names the one that does best on them now."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry

from broker.codec import digest, encode
from broker.contract.samples import SamplesV1
from diffusion.network import UNet
from monitoring.metrics import NOISE_LEVELS, TrainMetrics
from server_worker import versions
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from server_worker.training.evaluation import evaluate, held_out_pairs
from server_worker.training.plan import TrainPlan
from server_worker.training.publishing import Publishing
from server_worker.training.trainer import Trainer
from tests.server_worker.backbones import CLASSES, CONTRACT, CPU, SCHEDULE, SHAPE, UNET, T, sample_batch

PLAN = TrainPlan(lr=2e-3, weight_decay=0.0, warmup_steps=5, gradient_norm=1.0, ema_decay=0.9, seed=3)


def add(store: SampleStore, message: SamplesV1, client: str) -> None:
    store.add(message, digest(encode(message)), client, "d")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    torch.set_num_threads(1)
    return Storage(tmp_path)


def filled(storage: Storage, share: float = 0.25) -> SampleStore:
    store = SampleStore(storage, held_out_share=share)
    for seed in range(8):
        add(store, sample_batch(seed, count=16, t_cut=20 + 10 * (seed % 3)), f"client{seed % 2}")
    return store


def publishing_of(
    storage: Storage, store: SampleStore, trainer: Trainer, registry: CollectorRegistry | None = None
) -> Publishing:
    metrics = TrainMetrics(registry or CollectorRegistry())
    return Publishing(CONTRACT, storage, store, trainer, metrics, versions_kept=2)


def test_a_version_is_published_with_its_loss_and_whose_samples_it_saw(storage: Storage) -> None:
    registry = CollectorRegistry()
    trainer = Trainer(UNET, SCHEDULE, PLAN, CPU)

    manifest = publishing_of(storage, filled(storage), trainer, registry).publish()

    assert manifest == versions.read_manifest(storage, 1)
    assert manifest.samples_by_client == {"client0": 64, "client1": 64}
    assert manifest.held_out_loss == pytest.approx(1.0, abs=0.1), "an untrained network predicts no noise"
    assert set(manifest.held_out_by_level) == set(NOISE_LEVELS)
    for level, loss in manifest.held_out_by_level.items():
        shown = registry.get_sample_value("collafuse_held_out_loss", {"noise_level": level})
        assert shown == pytest.approx(loss)
    assert versions.best(storage) == versions.latest(storage) == 1


def test_without_held_out_releases_nothing_is_judged_and_there_is_no_best(storage: Storage) -> None:
    trainer = Trainer(UNET, SCHEDULE, PLAN, CPU)

    manifest = publishing_of(storage, filled(storage, share=0.0), trainer).publish()

    assert (manifest.held_out_loss, manifest.held_out_by_level) == (None, {})
    assert versions.best(storage) is None
    assert versions.chosen(storage, "best") == 1


def test_the_best_version_is_kept_when_training_goes_wrong(storage: Storage) -> None:
    store = filled(storage)
    good = Trainer(UNET, SCHEDULE, PLAN, CPU)
    publishing_of(storage, store, good).publish()
    wild = Trainer(UNET, SCHEDULE, replace(PLAN, lr=1.0, ema_decay=0.0), CPU)
    for _ in range(3):
        wild.step(wild.next_batch(store, 16))

    bad = [publishing_of(storage, store, wild).publish() for _ in range(4)]

    assert versions.best(storage) == 1
    assert versions.latest(storage) == bad[-1].number == 5
    assert versions.published(storage) == [1, 4, 5], "two are kept, and the best"
    assert versions.load(storage, 1, CPU).number == 1
    assert versions.chosen(storage, "latest") == 5
    assert versions.chosen(storage, "best") == 1


def test_a_best_version_that_cannot_be_read_gives_way(storage: Storage, tmp_path: Path) -> None:
    store = filled(storage)
    publishing = publishing_of(storage, store, Trainer(UNET, SCHEDULE, PLAN, CPU))
    publishing.publish()
    (tmp_path / "versions" / "000001" / "weights.safetensors").write_bytes(b"damaged")

    publishing.publish()

    assert versions.best(storage) == 2


def test_a_loss_that_is_not_finite_never_wins_and_never_stays(storage: Storage) -> None:
    store = filled(storage)
    trainer = Trainer(UNET, SCHEDULE, PLAN, CPU)
    blown_up = {name: torch.full_like(value, 1e38) for name, value in trainer.averaged_weights().items()}
    publishing = publishing_of(storage, store, trainer)
    publishing.publish()
    versions.publish(storage, blown_up, versions.read_manifest(storage, 1))
    versions.name_best(storage, 2)

    publishing.publish()
    assert versions.best(storage) == 3

    wild = Trainer(UNET, SCHEDULE, replace(PLAN, seed=9), CPU)
    moment = wild.checkpoint()
    tensors = {
        name: torch.full_like(value, 1e38) if name.startswith("ema.") and value.is_floating_point() else value
        for name, value in moment.tensors.items()
    }
    wild.restore(replace(moment, tensors=tensors))
    manifest = publishing_of(storage, store, wild).publish()
    assert (manifest.number, manifest.held_out_loss) == (4, None)
    assert versions.best(storage) == 3


def test_an_incumbent_is_judged_anew_on_the_releases_of_now(storage: Storage) -> None:
    """A version that learned one kind of image does best until releases of another kind come in."""
    store = SampleStore(storage, held_out_share=0.5)
    first, second = (Trainer(UNET, SCHEDULE, replace(PLAN, seed=seed), CPU) for seed in (1, 2))
    for seed in range(4):
        add(store, constant(seed, 1.0), "light")
    train(first, store, 60)
    publishing_of(storage, store, first).publish()
    train(second, store, 5)
    publishing_of(storage, store, second).publish()
    assert versions.best(storage) == 1

    for seed in range(40):
        add(store, constant(seed, -1.0), "dark")
    train(second, store, 120)
    publishing_of(storage, store, second).publish()

    assert versions.best(storage) == 3


def constant(seed: int, value: float) -> SamplesV1:
    """Releases at cut 20 of images that are one grey."""
    rng = np.random.default_rng(seed)
    signal, noise = float(SCHEDULE.alpha_bar[20] ** 0.5), float((1 - SCHEDULE.alpha_bar[20]) ** 0.5)
    x = (signal * value + noise * rng.standard_normal((16, *SHAPE))).astype(np.float32)
    return SamplesV1.pack(x, schedule_id=SCHEDULE.schedule_id, t_cut=20, release=0)


def train(trainer: Trainer, store: SampleStore, steps: int) -> None:
    for _ in range(steps):
        trainer.step(trainer.next_batch(store, 16))


def test_held_out_draws_are_the_same_each_time_and_cover_the_range_evenly(storage: Storage) -> None:
    store = filled(storage)
    one, again = (held_out_pairs(store, SCHEDULE, CLASSES, 3, CPU) for _ in range(2))
    assert one is not None
    assert again is not None

    for name in ("x_t", "noise", "t", "t_cut", "label"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert len(one.t) == store.held_out_samples
    places = (one.t - one.t_cut - 0.5) / (T - one.t_cut)
    assert float(places.mean()) == pytest.approx(0.5, abs=0.02), (
        "stratified, so far closer than drawn at random"
    )
    network = UNet(UNET).eval()
    assert evaluate(network, SCHEDULE, one) == evaluate(network, SCHEDULE, again)


def test_what_is_held_out_is_never_trained_on(storage: Storage) -> None:
    store = filled(storage)
    trained = {row.tobytes() for seed in range(40) for row in store.batch(np.random.default_rng(seed), 64).x}
    held_out = {
        row.tobytes()
        for seed in range(10)
        for row in store.batch(np.random.default_rng(seed), 64, held_out=True).x
    }
    assert trained.isdisjoint(held_out)
    assert len(held_out) == store.held_out_samples
    assert len(trained) == store.samples - store.held_out_samples
