"""What of a training is kept: from which checkpoint it goes on, and when the next checkpoint and the next version are due."""

import time
from collections.abc import Callable

import structlog

from monitoring.metrics import TrainMetrics
from server_worker import versions
from server_worker.errors import Damaged, StorageFull, VersionMissing
from server_worker.settings import TrainSettings
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.publishing import Publishing
from server_worker.training.ranks import Ranks
from server_worker.training.trainer import Trainer
from server_worker.versions import Manifest

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0


class Keeping:
    """Saves and publishes what a trainer has learned; only rank 0 does, the others just go on from what is there.

    publishing: rank 0's; None for the other ranks.
    """

    def __init__(
        self,
        settings: TrainSettings,
        storage: Storage,
        trainer: Trainer,
        metrics: TrainMetrics,
        ranks: Ranks,
        publishing: Publishing | None,
    ) -> None:
        self.version = 0
        self._settings = settings
        self._storage = storage
        self._trainer = trainer
        self._metrics = metrics
        self._ranks = ranks
        self._publishing = publishing
        self._saved_step = 0
        self._published_step: int | None = None
        self._published_from = 0
        self._retry_seconds = float("-inf")
        self._failing: set[str] = set()

    @property
    def is_done(self) -> bool:
        """Whether all that was trained is saved and published."""
        step = self._trainer.step_number
        return self._saved_step == step and step in (0, self._published_step)

    def recover(self) -> None:
        """Go on from the checkpoint that rank 0 finds.

        Raises Damaged when there are checkpoints and none is whole, ContractMismatch when it is of another network or schedule.
        """
        newest = checkpoints.load_newest(self._storage) if self._ranks.leads else None
        (step,) = self._ranks.agree([-1 if newest is None else newest.step])
        if step >= 0:
            checkpoint = newest or checkpoints.load_at(self._storage, step)
            self._trainer.restore(checkpoint)
            self._saved_step = step
            log.info("training_resumed", step=step, samples_seen=self._trainer.samples_seen)
        self.version = versions.newest(self._storage)
        self._tell_versions()
        manifest = self._newest_manifest()
        if manifest is None:
            return
        self._published_from = min(manifest.steps, self._trainer.step_number)
        # A version of more steps is of a training that was given up for an older checkpoint.
        if manifest.steps <= self._trainer.step_number:
            self._published_step = manifest.steps
            self._trainer.note_clients(manifest.samples_by_client)

    def after_step(self) -> None:
        """Save and publish where it is due after so many steps."""
        step = self._trainer.step_number
        if step - self._saved_step >= self._settings.checkpoint_steps:
            self._attempt("checkpoint_failed", self._save)
        if step - self._published_from >= self._settings.publish_steps:
            self._attempt("publishing_failed", self._publish)

    def wrap_up(self) -> bool:
        """Keep what the last step left; returns whether all of it is kept."""
        step = self._trainer.step_number
        if step > self._saved_step:
            self._attempt("checkpoint_failed", self._save)
        if step not in (0, self._published_step):
            self._attempt("publishing_failed", self._publish)
        return self.is_done

    def save_last(self) -> None:
        """Save the last step at once, however lately that failed: there is no other time."""
        self._retry_seconds = float("-inf")
        if self._trainer.step_number > self._saved_step:
            self._attempt("checkpoint_failed", self._save)

    def note_clients(self) -> None:
        """Remember whose samples are there to train on, for the next version to name them."""
        if self._publishing is not None:
            self._publishing.note_clients()

    def _save(self) -> None:
        self.note_clients()
        checkpoint = self._trainer.checkpoint()
        checkpoints.save(self._storage, checkpoint)
        self._saved_step = checkpoint.step

    def _publish(self) -> None:
        if self._publishing is None:
            return
        manifest = self._publishing.publish()
        self.version = manifest.number
        self._published_step = self._published_from = manifest.steps
        self._tell_versions()

    def _tell_versions(self) -> None:
        self._metrics.backbone_version.labels(follow="latest").set(self.version)
        try:
            best = versions.best(self._storage)
        except Damaged:  # it is written anew with the next version
            return
        if best is not None:
            self._metrics.backbone_version.labels(follow="best").set(best)

    def _attempt(self, event: str, action: Callable[[], None]) -> None:
        """Write something; a full disk or a damaged file is reported and it is tried again later: the training goes on."""
        if not self._ranks.leads or time.monotonic() < self._retry_seconds:
            return
        try:
            action()
        except (StorageFull, Damaged) as error:
            self._retry_seconds = time.monotonic() + RETRY_SECONDS
            self._failing.add(event)
            log.warning(event, error=str(error), retry_in_seconds=RETRY_SECONDS)
        else:
            self._failing.discard(event)
        self._metrics.train_save_failing.set(bool(self._failing))  # a checkpoint that works mends no version

    def _newest_manifest(self) -> Manifest | None:
        if not self.version:
            return None
        try:
            return versions.read_manifest(self._storage, self.version)
        except (Damaged, VersionMissing) as error:
            log.warning("newest_version_unreadable", error=str(error))
            return None
