"""Follows the published backbone versions: always the newest that can be used, read while the loop goes on serving."""

import threading
from typing import Literal

import structlog
import torch

from server_worker import versions
from server_worker.errors import ContractMismatch, Damaged, VersionMissing
from server_worker.storage import Storage
from server_worker.versions import Backbone

log = structlog.get_logger(__name__)


class VersionFollower:
    """Looks for a newer version, or with `follow` "best" for a better one, every `poll_seconds`, in a thread of its own.

    What it finds it reads and checks there.

    It keeps no version: what it has read it hands over. A version that cannot be used is reported once, and the one before
    goes on serving.
    """

    def __init__(
        self,
        storage: Storage,
        device: torch.device,
        *,
        poll_seconds: float,
        follow: Literal["latest", "best"] = "latest",
    ) -> None:
        self._storage = storage
        self._device = device
        self._poll_seconds = poll_seconds
        self.follow: Literal["latest", "best"] = follow
        self._number: int | None = None
        self._unusable: int | None = None
        self._told = ""
        self._error: BaseException | None = None
        self._read: Backbone | None = None
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="versions", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer; a version that is being read is not waited for."""
        self._stopped.set()

    def take(self, wait_seconds: float = 0.0) -> Backbone | None:
        """The newest version read since the last call; None when there is none within the time.

        Raises what ended the thread that reads, if anything did.
        """
        with self._changed:
            if self._read is None and self._error is None and wait_seconds > 0:
                self._changed.wait(wait_seconds)
            if self._error is not None:
                raise self._error
            newest, self._read = self._read, None
            return newest

    def _keep_looking(self) -> None:
        try:
            self._look()
            while not self._stopped.wait(self._poll_seconds):
                self._look()
        except BaseException as error:  # noqa: BLE001  # raised where versions are taken
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _look(self) -> None:
        number: int | None = None
        try:
            number = versions.chosen(self._storage, self.follow)
            if number is None or number in (self._number, self._unusable):
                return
            backbone = versions.load(self._storage, number, self._device)
        except (Damaged, VersionMissing, ContractMismatch) as error:
            self._unusable = number or self._unusable
            self._tell("version_unusable", str(error))
            return
        except OSError as error:
            self._tell("storage_unreadable", str(error))  # may pass: looked at again
            return
        self._number, self._told = number, ""
        with self._changed:
            self._read = backbone
            self._changed.notify_all()
        log.info("version_loaded", version=number, t_cut_min=backbone.manifest.t_cut_min)

    def _tell(self, event: str, why: str) -> None:
        """Once, however often it is seen."""
        if why != self._told:
            self._told = why
            log.warning(event, error=why)
