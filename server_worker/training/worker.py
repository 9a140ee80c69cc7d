"""The train worker: ingests samples, trains the backbone, publishes versions, opens rounds."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import structlog

from broker.errors import PublishFailed, Unroutable
from broker.messages import RoundV1
from broker.publisher import Publisher, outgoing
from broker.topology import ALL_KEY, EXCHANGE_DOWN
from diffusion.network import UNetConfig
from monitoring.metrics import TrainMetrics
from server_worker import versions
from server_worker.errors import Damaged, StorageFull
from server_worker.samples.contract import Contract
from server_worker.samples.ingest import Ingest
from server_worker.samples.store import SampleStore
from server_worker.settings import TrainSettings
from server_worker.storage import Storage
from server_worker.training import checkpoints
from server_worker.training.plan import TrainPlan
from server_worker.training.trainer import StepReport, Trainer
from server_worker.versions import Manifest

log = structlog.get_logger(__name__)

WAIT_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
RETRY_SECONDS = 5.0
LOSS_MEMORY = 0.95


def network_config(settings: TrainSettings) -> UNetConfig:
    """The backbone's network. Raises DiffusionError when the sizes do not fit each other."""
    return UNetConfig(
        in_channels=settings.channels,
        image_size=settings.image_size,
        base_channels=settings.base_channels,
        channel_multipliers=settings.channel_multipliers,
        blocks_per_level=settings.blocks_per_level,
        attention=settings.attention,
        num_classes=settings.num_classes,
    )


def train_plan(settings: TrainSettings) -> TrainPlan:
    """The trainer's part of the settings."""
    return TrainPlan(
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        gradient_norm=settings.gradient_norm,
        ema_decay=settings.ema_decay,
        seed=settings.seed,
    )


class TrainWorker:
    """Trains in the calling thread while `ingest` runs in a thread of its own."""

    def __init__(
        self,
        settings: TrainSettings,
        contract: Contract,
        storage: Storage,
        *,
        store: SampleStore,
        trainer: Trainer,
        ingest: Ingest,
        publisher: Publisher,
        metrics: TrainMetrics,
    ) -> None:
        self._settings = settings
        self._contract = contract
        self._storage = storage
        self._store = store
        self._trainer = trainer
        self._ingest = ingest
        self._publisher = publisher
        self._metrics = metrics
        self._losses: dict[str, float] = {}
        self._ingest_error: BaseException | None = None
        self._saved_step = 0
        self._published_step = -1
        self._version = 0
        self._announced_at = float("-inf")
        self._retry_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Train and ingest until `stop` is set, or until the budget is spent when the settings say so.

        Leaves a checkpoint of the last step. Raises what ended the ingest thread, if anything did.
        """
        self._recover()
        ingest = threading.Thread(target=self._run_ingest, args=(stop,), name="ingest")
        ingest.start()
        try:
            self._loop(stop)
        finally:
            stop.set()
            ingest.join()
            self._save_if(self._trainer.step_number > self._saved_step)
        if self._ingest_error is not None:
            raise self._ingest_error

    def _recover(self) -> None:
        checkpoint = checkpoints.load_newest(self._storage)
        if checkpoint is not None:
            self._trainer.restore(checkpoint)
            self._saved_step = checkpoint.step
            log.info("training_resumed", step=checkpoint.step, samples_seen=self._trainer.samples_seen)
        self._version = versions.latest(self._storage) or 0
        if self._version:
            self._published_step = versions.read_manifest(self._storage, self._version).steps
        self._metrics.backbone_version.set(self._version)

    def _run_ingest(self, stop: threading.Event) -> None:
        try:
            self._ingest.run(stop)
        except BaseException as error:  # noqa: BLE001  # carried to the main thread, which raises it
            self._ingest_error = error
            stop.set()

    def _loop(self, stop: threading.Event) -> None:
        waiting_said = False
        shown_at = time.monotonic()
        while not stop.is_set():
            self._announce_if_due()
            if self._budget_spent():
                if self._wrap_up() and self._settings.exit_when_done:
                    return
                stop.wait(WAIT_SECONDS)
            elif self._store.samples < self._settings.min_samples:
                if not waiting_said:
                    log.info(
                        "waiting_for_samples", stored=self._store.samples, wanted=self._settings.min_samples
                    )
                    waiting_said = True
                stop.wait(WAIT_SECONDS)
            else:
                self._train_step()
                if time.monotonic() - shown_at > PROGRESS_SECONDS:
                    shown_at = time.monotonic()
                    log.info(
                        "training_progress",
                        step=self._trainer.step_number,
                        samples=self._store.samples,
                        **self._losses,
                    )

    def _budget_spent(self) -> bool:
        return self._settings.steps is not None and self._trainer.step_number >= self._settings.steps

    def _train_step(self) -> None:
        started = time.perf_counter()
        try:
            batch = self._trainer.next_batch(self._store, self._settings.batch_size)
        except Damaged as error:
            log.warning("nothing_to_train_on", error=str(error))
            return
        report = self._trainer.step(batch)
        self._metrics.train_steps_total.inc()
        self._metrics.train_step_seconds.observe(time.perf_counter() - started)
        self._show_losses(report)
        step = self._trainer.step_number
        self._save_if(step - self._saved_step >= self._settings.checkpoint_steps)
        self._publish_if(step - max(0, self._published_step) >= self._settings.publish_steps)

    def _wrap_up(self) -> bool:
        """Keep what the last step left; returns whether all of it is kept."""
        step = self._trainer.step_number
        self._save_if(step > self._saved_step)
        self._publish_if(step > 0 and step != self._published_step)
        return self._saved_step == step and step in (0, self._published_step)

    def _show_losses(self, report: StepReport) -> None:
        for level, loss in report.by_level.items():
            before = self._losses.get(level, loss)
            self._losses[level] = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * loss
            self._metrics.train_loss.labels(noise_level=level).set(self._losses[level])

    def _save_if(self, due: bool) -> None:
        def save() -> None:
            checkpoint = self._trainer.checkpoint()
            checkpoints.save(self._storage, checkpoint)
            self._saved_step = checkpoint.step

        if due:
            self._keep("checkpoint_failed", save)

    def _publish_if(self, due: bool) -> None:
        def publish() -> None:
            manifest = versions.publish(
                self._storage,
                self._trainer.averaged_weights(),
                self._manifest(),
                keep=self._settings.versions_kept,
            )
            self._version, self._published_step = manifest.number, manifest.steps
            self._metrics.backbone_version.set(manifest.number)
            self._announced_at = float("-inf")

        if due:
            self._keep("publishing_failed", publish)

    def _keep(self, event: str, action: Callable[[], None]) -> None:
        """Write something; a full disk is reported and tried again later, and does not end the training."""
        if time.monotonic() < self._retry_at:
            return
        try:
            action()
        except StorageFull as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            log.warning(event, error=str(error), retry_in_seconds=RETRY_SECONDS)

    def _manifest(self) -> Manifest:
        """What the next version is; `publish` fills in its number and digest."""
        schedule = self._contract.schedule
        least = self._store.least_t_cut()
        return Manifest(
            number=0,
            schedule_name=schedule.name,
            schedule_T=schedule.T,
            schedule_id=schedule.schedule_id,
            shape=self._contract.shape,
            num_classes=self._contract.num_classes,
            t_cut_min=self._contract.t_cut_range[0] if least is None else least,
            steps=self._trainer.step_number,
            samples_seen=self._trainer.samples_seen,
            weights_digest="",
            unet=self._trainer.config.to_dict(),
        )

    def _announce_if_due(self) -> None:
        """Open a round: at the start, with each version, and again from time to time for devices that come late."""
        now = time.monotonic()
        if now - self._announced_at < self._settings.round_seconds:
            return
        self._announced_at = now
        self._store.refresh()
        schedule = self._contract.schedule
        # Derived from the version, so the number rises over restarts without being kept anywhere.
        announcement = RoundV1(
            number=self._version + 1,
            schedule_name=self._settings.schedule,
            schedule_T=schedule.T,
            schedule_id=schedule.schedule_id,
            shape=self._contract.shape,
            num_classes=self._contract.num_classes,
            cut_min=self._contract.cut_min,
            cut_max=self._contract.cut_max,
            releases_wanted=self._settings.releases_wanted,
            backbone_version=self._version,
        )
        message = outgoing(
            announcement,
            exchange=EXCHANGE_DOWN,
            routing_key=ALL_KEY,
            message_id=f"round-{announcement.number}",
            # The next one says the same or better: announcements must not pile up in the inbox of a device that is away.
            ttl_seconds=2 * self._settings.round_seconds,
        )
        log.info("round_opened", number=announcement.number, backbone_version=self._version)
        try:
            self._publisher.send(message).add_done_callback(_round_sent)
        except PublishFailed as error:
            log.warning("round_not_announced", error=str(error))


def _round_sent(future: "Future[None]") -> None:
    error = future.exception()
    if isinstance(error, Unroutable):
        log.info("round_without_devices")
    elif error is not None:
        log.warning("round_not_announced", error=str(error))
