"""The process that started this one as a rank, as the rank sees it."""

import os
from pathlib import Path

STOP_FILE_VARIABLE = "COLLAFUSE_RANKS_STOP_FILE"


def is_rank() -> bool:
    """Whether torchrun, ours or another, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class Parent:
    """Our launcher; of a process that was not started by it this says nothing."""

    def __init__(self) -> None:
        path = os.environ.get(STOP_FILE_VARIABLE)
        self._stop_file = Path(path) if path and is_rank() else None
        self._pid = os.getppid()

    def wants_stop(self) -> bool:
        """Whether the launcher was told to stop, or is gone: ranks without it would never be restarted, nor stopped."""
        if self._stop_file is None:
            return False
        return self._stop_file.exists() or os.getppid() != self._pid
