"""Publishing what was trained: a version with what it is worth, and the best of all versions so far."""

import math
from collections import Counter

import structlog

from monitoring.metrics import TrainMetrics
from server_worker import versions
from server_worker.errors import ContractMismatch, Damaged, VersionMissing
from server_worker.samples.contract import Contract
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from server_worker.training.evaluation import HeldOutLoss, evaluate, held_out_pairs
from server_worker.training.pairs import Pairs
from server_worker.training.trainer import Trainer
from server_worker.versions import Manifest

log = structlog.get_logger(__name__)


class Publishing:
    """Publishes a trainer's averaged weights, and keeps BEST on the version that does best on held-out releases of now."""

    def __init__(
        self,
        contract: Contract,
        storage: Storage,
        store: SampleStore,
        trainer: Trainer,
        metrics: TrainMetrics,
        *,
        versions_kept: int,
    ) -> None:
        self._contract = contract
        self._storage = storage
        self._store = store
        self._trainer = trainer
        self._metrics = metrics
        self._versions_kept = versions_kept

    def publish(self) -> Manifest:
        """Publish the next version, judged. Raises StorageFull, and NotFinite for weights with NaN or infinity."""
        pairs = held_out_pairs(
            self._store,
            self._contract.schedule,
            self._contract.num_classes,
            self._trainer.seed,
            self._trainer.device,
        )
        network = self._trainer.averaged_network()
        judged = None if pairs is None else evaluate(network, self._contract.schedule, pairs)
        if judged is not None and not math.isfinite(judged.loss):
            log.warning("version_not_judged", reason="its loss on held-out releases is not finite")
            judged = None
        manifest = versions.publish(
            self._storage, network.state_dict(), self._manifest(judged), keep=self._versions_kept
        )
        if judged is not None and pairs is not None:
            self._tell(manifest, judged)
            self._compare(manifest.number, judged, pairs)
        return manifest

    def note_clients(self) -> None:
        """Remember whose samples are there to train on; only rank 0 does, which keeps it."""
        samples: Counter[str] = Counter()
        for entry in self._store.entries():
            samples[entry.client] += entry.samples
        self._trainer.note_clients(samples)

    def _tell(self, manifest: Manifest, judged: HeldOutLoss) -> None:
        for level, loss in judged.by_level.items():
            self._metrics.held_out_loss.labels(noise_level=level).set(loss)
        log.info("version_judged", version=manifest.number, held_out_loss=judged.loss, **judged.by_level)

    def _compare(self, candidate: int, judged: HeldOutLoss, pairs: Pairs) -> None:
        """Name the candidate the best, unless the best so far does better on the same pairs; a draw goes to the newer."""
        try:
            incumbent = versions.best(self._storage)
            if incumbent is not None:
                network = versions.load(self._storage, incumbent, self._trainer.device).network
                loss = evaluate(network, self._contract.schedule, pairs).loss
                log.info(
                    "versions_compared",
                    candidate=candidate,
                    candidate_loss=judged.loss,
                    best=incumbent,
                    best_loss=loss,
                )
                if loss < judged.loss:
                    return
                if not math.isfinite(loss):
                    log.warning(
                        "best_version_unusable", error=f"the loss of version {incumbent} is not finite"
                    )
        except (Damaged, VersionMissing, ContractMismatch) as error:
            log.warning("best_version_unusable", error=str(error))
        versions.name_best(self._storage, candidate)

    def _manifest(self, judged: HeldOutLoss | None) -> Manifest:
        """What the next version is; `versions.publish` fills in its number and digest."""
        schedule = self._contract.schedule
        least = self._store.least_t_cut()
        self.note_clients()
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
            held_out_loss=None if judged is None else judged.loss,
            held_out_by_level={} if judged is None else dict(judged.by_level),
            samples_by_client=dict(self._trainer.samples_by_client),
        )
