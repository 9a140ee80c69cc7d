"""Follows the published backbone versions: always the newest that can be used, without losing sight of the time it takes."""

from typing import Literal

import structlog
import torch

from monitoring.metrics import DenoiseMetrics
from server_worker import versions
from server_worker.errors import ContractMismatch, Damaged, VersionMissing
from server_worker.storage import Storage
from server_worker.versions import Backbone

log = structlog.get_logger(__name__)


class VersionFollower:
    """Looks for a newer version, or with `follow` "best" for a better one, every `poll_seconds`.

    It holds the newest version and no other: requests in hand hold theirs, and with the last of them its memory is freed. A
    version that cannot be used is reported once, and the one before goes on serving.
    """

    def __init__(
        self,
        storage: Storage,
        device: torch.device,
        *,
        poll_seconds: float,
        metrics: DenoiseMetrics,
        follow: Literal["latest", "best"] = "latest",
    ) -> None:
        self._storage = storage
        self._device = device
        self._poll_seconds = poll_seconds
        self._metrics = metrics
        self._follow: Literal["latest", "best"] = follow
        self._newest: Backbone | None = None
        self._unusable: int | None = None
        self._polled_seconds = float("-inf")

    def newest(self, now_seconds: float) -> Backbone | None:
        """The version to serve new requests with; None before the first."""
        if now_seconds - self._polled_seconds >= self._poll_seconds:
            self._polled_seconds = now_seconds
            self._look()
        return self._newest

    def _look(self) -> None:
        number: int | None = None
        try:
            number = versions.chosen(self._storage, self._follow)
            current = None if self._newest is None else self._newest.number
            if number in (None, current, self._unusable):
                return
            assert number is not None
            self._newest = versions.load(self._storage, number, self._device)
        except (Damaged, VersionMissing, ContractMismatch) as error:
            self._unusable = number
            log.warning("version_unusable", version=number, error=str(error))
            return
        except OSError as error:
            log.warning("storage_unreadable", error=str(error))  # may pass: looked at again
            return
        self._metrics.backbone_version.set(number)
        log.info("version_loaded", version=number, t_cut_min=self._newest.manifest.t_cut_min)
