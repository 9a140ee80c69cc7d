"""When what was trained is saved and published, on a disk that is full and on a storage that went back in time."""

from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from broker.codec import digest, encode
from monitoring.metrics import TrainMetrics
from server_worker import versions
from server_worker.samples.store import SampleStore
from server_worker.settings import TrainSettings
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.keeping import Keeping
from server_worker.training.plan import TrainPlan
from server_worker.training.publishing import Publishing
from server_worker.training.ranks import ALONE
from server_worker.training.trainer import Trainer
from tests.server_worker.backbones import CONTRACT, CPU, SCHEDULE, UNET, sample_batch
from tests.server_worker.test_storage import files_limited_to

PLAN = TrainPlan(lr=2e-3, weight_decay=0.0, warmup_steps=5, gradient_norm=1.0, ema_decay=0.9, seed=3)
SETTINGS = TrainSettings(checkpoint_steps=4, publish_steps=10)


class Training:
    """One life of a trainer on a storage, without what takes samples in."""

    def __init__(self, storage: Storage) -> None:
        torch.set_num_threads(1)
        self.storage = storage
        self.store = SampleStore(storage)
        self.trainer = Trainer(UNET, SCHEDULE, PLAN, CPU)
        self.registry = CollectorRegistry()
        metrics = TrainMetrics(self.registry)
        publishing = Publishing(CONTRACT, storage, self.store, self.trainer, metrics, versions_kept=9)
        self.keeping = Keeping(SETTINGS, storage, self.trainer, metrics, ALONE, publishing)
        self.keeping.recover()

    def add(self, seed: int, client: str) -> None:
        message = sample_batch(seed)
        self.store.add(message, digest(encode(message)), client, "d")

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.trainer.step(self.trainer.next_batch(self.store, 8))
            self.keeping.after_step()

    def save_fails(self) -> bool:
        """What /metrics says of it."""
        return self.registry.get_sample_value("collafuse_train_save_failing") == 1

    def told_version(self, follow: str) -> float | None:
        """What /metrics says of it."""
        return self.registry.get_sample_value("collafuse_backbone_version", {"follow": follow})

    def versions(self) -> list[tuple[int, int]]:
        """Number and steps of each."""
        numbers = versions.published(self.storage)
        return [(number, versions.read_manifest(self.storage, number).steps) for number in numbers]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path)
    Training(storage).add(0, "clinic-a")
    return storage


def test_a_training_that_went_back_publishes_as_often_as_before(storage: Storage) -> None:
    first = Training(storage)
    first.run(20)
    assert first.versions() == [(1, 10), (2, 20)]
    for step in (16, 20):
        storage.delete(f"checkpoints/{step:012d}")
    checkpoints.save(storage, checkpoints.Checkpoint(8, *_of(first.trainer)))

    second = Training(storage)
    assert second.trainer.step_number == 8
    second.keeping.wrap_up()
    assert second.versions()[2:] == [(3, 8)], "no version is of these weights"
    second.run(10)
    assert second.versions()[3:] == [(4, 18)]
    assert versions.latest(storage) == 4


def _of(trainer: Trainer) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    moment = trainer.checkpoint()
    return dict(moment.tensors), dict(moment.state)


def test_a_training_that_goes_on_publishes_no_step_twice(storage: Storage) -> None:
    first = Training(storage)
    first.run(20)
    second = Training(storage)
    assert second.keeping.is_done
    assert second.keeping.wrap_up()
    assert second.versions() == [(1, 10), (2, 20)]


def test_the_newest_version_is_told_and_the_best_once_there_is_one(storage: Storage) -> None:
    first = Training(storage)
    assert (first.told_version("latest"), first.told_version("best")) == (0, None)
    first.run(20)
    assert (first.told_version("latest"), first.told_version("best")) == (2, None)

    versions.name_best(storage, 1)
    second = Training(storage)
    assert (second.told_version("latest"), second.told_version("best")) == (2, 1)


def test_damaged_names_and_manifests_of_versions_do_not_end_the_training(
    storage: Storage, tmp_path: Path
) -> None:
    Training(storage).run(10)
    for name in ("LATEST", "BEST"):
        (tmp_path / "versions" / name).write_text("")
    (tmp_path / "versions" / "000001" / "manifest.json").write_text("{")

    second = Training(storage)
    assert second.keeping.version == 1
    second.run(2)
    assert second.keeping.wrap_up()
    assert versions.latest(storage) == 2


def test_the_last_save_is_tried_however_lately_one_failed(storage: Storage) -> None:
    training = Training(storage)
    training.run(3)
    assert not training.save_fails()
    with files_limited_to(30_000):
        training.run(1)
    assert checkpoints.load_newest(storage) is None
    training.run(1)
    assert checkpoints.load_newest(storage) is None, "it waits before it tries again"
    assert training.save_fails()

    training.keeping.save_last()

    assert not training.save_fails()

    loaded = checkpoints.load_newest(storage)
    assert loaded is not None
    assert loaded.step == 5


def test_a_checkpoint_that_works_does_not_hide_that_no_version_can_be_published(storage: Storage) -> None:
    training = Training(storage)
    training.run(9)
    with files_limited_to(30_000):
        training.run(1)
    assert training.versions() == []
    assert training.save_fails()

    training.keeping.save_last()

    loaded = checkpoints.load_newest(storage)
    assert loaded is not None
    assert loaded.step == 10
    assert training.save_fails(), "or an alert that waits for two minutes would begin anew at each checkpoint"
    assert training.keeping.wrap_up()
    assert not training.save_fails()


def test_versions_name_clients_that_were_forgotten_meanwhile(storage: Storage) -> None:
    first = Training(storage)
    first.add(1, "clinic-b")
    first.run(4)
    first.store.forget("clinic-a")

    second = Training(storage)
    second.run(6)

    assert {entry.client for entry in second.store.entries()} == {"clinic-b"}
    manifest = versions.read_manifest(storage, 1)
    assert manifest.samples_by_client == {"clinic-a": 4, "clinic-b": 4}
