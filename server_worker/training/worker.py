"""The train worker: ingests samples, trains the backbone, publishes versions, opens rounds; alone or as one of several ranks."""

import math
import threading
import time
from enum import IntEnum

import structlog

from monitoring.metrics import TrainMetrics
from server_worker.errors import Damaged, Unreadable
from server_worker.samples.ingest import Ingest
from server_worker.samples.store import SampleBatch, SampleStore
from server_worker.settings import TrainSettings
from server_worker.training.announcer import Announcer
from server_worker.training.keeping import Keeping
from server_worker.training.ranks import Ranks
from server_worker.training.trainer import StepReport, Trainer

log = structlog.get_logger(__name__)

WAIT_SECONDS = 0.2
REFRESH_SECONDS = 10.0
"""Between two looks at what other processes stored and erased."""
IDLE_REFRESH_SECONDS = 1.0
PROGRESS_SECONDS = 5.0
STUCK_SECONDS = 900.0
"""Without a turn of the loop; evaluating and publishing take less."""
LOSS_MEMORY = 0.95


class Turn(IntEnum):
    """What all ranks do next; where they differ the greatest counts, so that one that was told to stop stops all."""

    WAIT = 0
    TRAIN = 1
    REFRESH = 2
    WRAP_UP = 3
    STOP = 4


class TrainWorker:
    """Trains in the calling thread while `ingest` runs in a thread of its own.

    announcer: rank 0's; the other ranks have none, and follow its turns.
    """

    def __init__(
        self,
        settings: TrainSettings,
        *,
        store: SampleStore,
        trainer: Trainer,
        ingest: Ingest,
        metrics: TrainMetrics,
        ranks: Ranks,
        announcer: Announcer | None,
        keeping: Keeping,
    ) -> None:
        self._settings = settings
        self._store = store
        self._trainer = trainer
        self._ingest = ingest
        self._metrics = metrics
        self._ranks = ranks
        self._announcer = announcer
        self._keeping = keeping
        self._losses: dict[str, float] = {}
        self._ingest_error: BaseException | None = None
        self._next: SampleBatch | None = None
        self._draw_seconds = 0.0
        self._has_view = False
        self._has_trained = False
        self._waiting_said = False
        self._enough_at: int | None = None
        self._skipped_steps = 0
        self._shown_seconds = time.monotonic()
        self._refreshed_seconds = float("-inf")
        self._turned_seconds = time.monotonic()

    def not_live(self) -> str | None:
        """Why the process should be restarted; None when all is well. Called from any thread."""
        silent_seconds = time.monotonic() - self._turned_seconds
        if silent_seconds > STUCK_SECONDS:
            return f"no turn of the loop for {silent_seconds:.0f} s: a step is stuck, or another rank is"
        return None

    def run(self, stop: threading.Event) -> None:
        """Train and ingest until `stop` is set on any rank, or until the budget is spent when the settings say so.

        Leaves a checkpoint of the last step. Raises what ended the ingest thread, if anything did.
        """
        self._keeping.recover()
        ingest = threading.Thread(target=self._run_ingest, args=(stop,), name="ingest")
        ingest.start()
        try:
            while self._take_turn(stop):
                pass
        finally:
            stop.set()
            try:
                self._keeping.save_last()  # before waiting for ingest, which may be long at something
            finally:
                ingest.join()
            log.info("training_stopped", step=self._trainer.step_number, rank=self._ranks.rank)
        if self._ingest_error is not None:
            raise self._ingest_error

    def _run_ingest(self, stop: threading.Event) -> None:
        try:
            self._ingest.run(stop)
        except BaseException as error:  # noqa: BLE001  # carried to the main thread, which raises it
            self._ingest_error = error
            stop.set()

    def _take_turn(self, stop: threading.Event) -> bool:
        """Agree on what to do, and do it; returns whether there is another turn.

        Only what was agreed decides, never a clock or a file of this rank's own: the ranks would part.
        """
        self._turned_seconds = time.monotonic()
        is_told = stop.is_set() or self._ranks.parent.wants_stop()
        wish = Turn.STOP if is_told else self._wish()
        told, lacking = self._ranks.agree([wish, not self._draw_ahead(wish)])
        turn = Turn(told)
        if turn is Turn.TRAIN and lacking:
            stop.wait(WAIT_SECONDS)
            turn = Turn.REFRESH
        if turn is Turn.TRAIN:
            self._train_step()
        elif turn is Turn.REFRESH:
            self._refresh()
        elif turn is Turn.WAIT or (turn is Turn.WRAP_UP and not self._wrap_up()):
            stop.wait(WAIT_SECONDS)
        return turn is not Turn.STOP

    def _wish(self) -> Turn:
        """What rank 0 would do next; the others leave it to rank 0."""
        if not self._ranks.leads:
            return Turn.WAIT
        if self._announcer is not None:
            self._announcer.announce_if_due(self._keeping.version)
        is_done = self._settings.steps is not None and self._trainer.step_number >= self._settings.steps
        if is_done and not self._keeping.is_done:
            return Turn.WRAP_UP
        if is_done and self._settings.exit_when_done:
            return Turn.STOP
        is_short = not self._has_enough()
        since_seconds = time.monotonic() - self._refreshed_seconds
        if since_seconds >= (IDLE_REFRESH_SECONDS if is_short else REFRESH_SECONDS):
            return Turn.REFRESH
        if is_short and not self._waiting_said:
            self._waiting_said = True
            log.info(
                "waiting_for_samples",
                stored=self._store.samples,
                held_out=self._store.held_out_samples,
                wanted=self._settings.min_samples,
            )
        return Turn.WAIT if is_done or is_short else Turn.TRAIN

    def _has_enough(self) -> bool:
        """Whether enough is stored, and not all of it kept from training; looked at closely only until it is so."""
        stored = self._store.samples
        if self._enough_at is not None and stored >= self._enough_at:
            return True
        is_enough = stored >= self._settings.min_samples and stored > self._store.held_out_samples
        self._enough_at = stored if is_enough else None
        return is_enough

    def _draw_ahead(self, wish: Turn) -> bool:
        """Have the next step's batch in hand if it may come to that; returns whether it is."""
        may_train = wish is Turn.TRAIN or (wish is Turn.WAIT and not self._ranks.leads)
        if self._next is not None or not may_train:
            return self._next is not None
        if self._ranks.size > 1 and not self._has_view:
            return False
        started = time.perf_counter()
        try:
            self._next = self._trainer.next_batch(self._store, self._settings.batch_size)
        except (Damaged, Unreadable) as error:
            log.debug("nothing_to_train_on", error=str(error))
            return False
        self._draw_seconds = time.perf_counter() - started
        return True

    def _refresh(self) -> None:
        """See what other processes stored and erased; several ranks go on with what rank 0 sees, or all of them with nothing."""
        self._refreshed_seconds = time.monotonic()
        self._next = None
        if self._has_trained:
            self._keeping.note_clients()  # before what was erased meanwhile is out of sight
            self._has_trained = False
        self._store.refresh()
        if self._ranks.size == 1:
            return
        names = self._ranks.share(self._store.snapshot() if self._ranks.leads else ())
        failed = False
        try:
            self._store.adopt(names)
        except Damaged as error:
            log.warning("store_view_not_shared", error=str(error))
            failed = True
        self._has_view = not self._ranks.agree([failed])[0]

    def _train_step(self) -> None:
        assert self._next is not None
        started = time.perf_counter()
        report = self._trainer.step(self._next)
        self._next = None
        self._has_trained = True
        self._metrics.train_steps_total.inc()
        self._metrics.train_step_seconds.observe(time.perf_counter() - started + self._draw_seconds)
        if not report.is_updated:
            self._skipped_steps += 1
            self._metrics.train_steps_skipped_total.inc()
        self._show(report)
        version = self._keeping.version
        self._keeping.after_step()
        self._announce_if_newer(version)

    def _wrap_up(self) -> bool:
        version = self._keeping.version
        is_done = self._keeping.wrap_up()
        self._announce_if_newer(version)
        return is_done

    def _announce_if_newer(self, version: int) -> None:
        if self._announcer is not None and self._keeping.version != version:
            self._announcer.announce_if_due(self._keeping.version, at_once=True)

    def _show(self, report: StepReport) -> None:
        for level, loss in report.by_level.items():
            if not math.isfinite(loss):
                continue
            before = self._losses.get(level, loss)
            self._losses[level] = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * loss
            self._metrics.train_loss.labels(noise_level=level).set(self._losses[level])
        if time.monotonic() - self._shown_seconds > PROGRESS_SECONDS:
            self._shown_seconds = time.monotonic()
            if self._skipped_steps:
                log.warning(
                    "steps_without_update",
                    steps=self._skipped_steps,
                    reason="the gradient was not finite: look for samples with huge values, or lower lr",
                )
                self._skipped_steps = 0
            log.info(
                "training_progress",
                step=self._trainer.step_number,
                samples=self._store.samples,
                **self._losses,
            )
