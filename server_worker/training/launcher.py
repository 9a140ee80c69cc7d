"""Starts several ranks on this machine and keeps them running: torchrun with one answer to SIGTERM.

torchrun's own answer to a signal is to pass it on and then to fail. Here it makes a file that every rank looks for at every turn,
so that all of them stop at the same step with a checkpoint, and the command ends with exit code 0.
"""

import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import structlog
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from server_worker.errors import RanksFailed
from server_worker.training.parent import STOP_FILE_VARIABLE, failure_file

log = structlog.get_logger(__name__)

STOP_LIMIT_SECONDS = 60
"""After a signal, so long may the ranks take to stop; then they are ended."""


def launch(arguments: Sequence[str], ranks: int, max_restarts: int) -> None:
    """Run `collafuse` with these arguments as so many ranks, until they have ended in order.

    When one of them dies all are started again, at most `max_restarts` times, and go on from the newest checkpoint; but not when
    it has said that the same error would come again.

    Raises RanksFailed when they do not end in order, or not within a minute of a SIGTERM or SIGINT.
    """
    with tempfile.TemporaryDirectory(prefix="collafuse-ranks-") as folder:
        stop_file = Path(folder) / "stop"
        os.environ[STOP_FILE_VARIABLE] = str(stop_file)
        _on_signals(stop_file)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
            signals_to_handle="SIGALRM",  # SIGTERM and SIGINT are ours; the alarm ends ranks that do not stop
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        log.info("ranks_starting", ranks=ranks, max_restarts=max_restarts)
        try:
            # -P: nothing that lies about in the working directory is run.
            elastic_launch(config, sys.executable)("-P", "-m", "collafuse", *arguments)
        except ChildFailedError as error:
            _raise_told()
            _, failure = error.get_first_failure()
            raise RanksFailed(
                f"rank {failure.local_rank} ended with code {failure.exitcode}, and the ranks have started "
                f"again {max_restarts} times: its own last line, above, says why"
            ) from error
        except SignalException as error:
            raise RanksFailed(
                f"the ranks did not stop within {STOP_LIMIT_SECONDS} s and were ended; "
                "training goes on from the newest checkpoint"
            ) from error
        finally:
            signal.alarm(0)
        _raise_told()
    log.info("ranks_ended")


def _raise_told() -> None:
    """Raise RanksFailed with the line that a rank left, if one did; ranks that are started after that end at once."""
    path = failure_file()
    if path is not None and path.exists():
        raise RanksFailed(path.read_text())


def _on_signals(stop_file: Path) -> None:
    def on_signal(number: int, _: object) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop_file.parent.mkdir(parents=True, exist_ok=True)  # who cleans /tmp may have been here
        stop_file.touch()
        signal.alarm(STOP_LIMIT_SECONDS)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
