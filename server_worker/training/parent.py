"""The process that started this one as a rank, as the rank sees it."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from monitoring.errors import CollafuseError, Disposition

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0
ORPHAN_LIMIT_SECONDS = 30.0
"""So long may a rank without a launcher take to stop in order, with its checkpoint."""
STOP_FILE_VARIABLE = "COLLAFUSE_RANKS_STOP_FILE"


def is_rank() -> bool:
    """Whether torchrun, ours or another, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def failure_file() -> Path | None:
    """Where a rank says why it is of no use to start it again; None for a process that our launcher did not start."""
    path = os.environ.get(STOP_FILE_VARIABLE)
    return Path(path).with_name("failure") if path else None


def has_failed_for_good() -> bool:
    """Whether a rank of this launcher has ended in an error that would come again: whoever is started then just ends."""
    path = failure_file()
    return path is not None and is_rank() and path.exists()


@contextmanager
def failures_told() -> Iterator[None]:
    """Around a rank's work: leaves the line of an error that would come again to the launcher."""
    try:
        yield
    except CollafuseError as error:
        path = failure_file()
        if path is not None and is_rank() and error.disposition is not Disposition.RETRY:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"failure-{os.getpid()}").write_text(str(error))
            path.with_name(f"failure-{os.getpid()}").replace(path)
        raise


class Parent:
    """Our launcher; of a process that was not started by it this says nothing."""

    def __init__(self) -> None:
        path = os.environ.get(STOP_FILE_VARIABLE)
        self._stop_file = Path(path) if path and is_rank() else None
        self._pid = os.getppid()
        if self._stop_file is not None:
            threading.Thread(target=self._watch, name="parent", daemon=True).start()

    def wants_stop(self) -> bool:
        """Whether the launcher was told to stop, or is gone: ranks without it would never be restarted, nor stopped."""
        if self._stop_file is None:
            return False
        return self._stop_file.exists() or os.getppid() != self._pid

    def _watch(self) -> None:
        """End this rank when its launcher is gone and it does not stop by itself, as one that waits for dead ranks would not."""
        while os.getppid() == self._pid:
            time.sleep(WATCH_SECONDS)
        time.sleep(ORPHAN_LIMIT_SECONDS)
        try:
            log.error("rank_without_launcher_ended")
        finally:  # whoever read the log may be gone too
            os._exit(1)
