"""Follows the published backbone versions: always the newest that can be used, read while the loop goes on serving."""

import queue
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
        self._follow: Literal["latest", "best"] = follow
        self._number: int | None = None
        self._unusable: int | None = None
        self._read: queue.SimpleQueue[Backbone] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="versions", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no longer; a version that is being read is not waited for."""
        self._stopped.set()

    def take(self, wait_seconds: float = 0.0) -> Backbone | None:
        """A version read since the last call, the newest if there are several; None when there is none within the time.

        Raises what ended the thread that reads, if anything did.
        """
        if self._error is not None:
            raise self._error
        newest: Backbone | None = None
        try:
            newest = self._read.get(timeout=wait_seconds) if wait_seconds > 0 else self._read.get_nowait()
            while True:
                newest = self._read.get_nowait()
        except queue.Empty:
            return newest

    def _keep_looking(self) -> None:
        try:
            self._look()
            while not self._stopped.wait(self._poll_seconds):
                self._look()
        except BaseException as error:  # noqa: BLE001  # raised where versions are taken
            self._error = error

    def _look(self) -> None:
        number: int | None = None
        try:
            number = versions.chosen(self._storage, self._follow)
            if number in (None, self._number, self._unusable):
                return
            assert number is not None
            backbone = versions.load(self._storage, number, self._device)
        except (Damaged, VersionMissing, ContractMismatch) as error:
            self._unusable = number
            log.warning("version_unusable", version=number, error=str(error))
            return
        except OSError as error:
            log.warning("storage_unreadable", error=str(error))  # may pass: looked at again
            return
        self._number = number
        self._read.put(backbone)
        log.info("version_loaded", version=number, t_cut_min=backbone.manifest.t_cut_min)
