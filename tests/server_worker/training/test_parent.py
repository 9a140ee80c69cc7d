"""A rank without its launcher must end: nobody would restart it, and nobody could stop it."""

import os
import subprocess
import sys
from pathlib import Path

from server_worker.training.parent import STOP_FILE_VARIABLE, Parent
from tests.conftest import wait_until

STUCK = """
import sys, threading
from pathlib import Path
from server_worker.training import parent
parent.ORPHAN_LIMIT_SECONDS = 0.1
rank = parent.Parent()
Path(sys.argv[1]).write_text(str(rank.wants_stop()))
threading.Event().wait()  # as one that waits for ranks that are dead
"""
LAUNCHER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(child.pid, flush=True)
child.wait()
"""


def test_a_rank_that_waits_for_dead_ranks_ends_when_its_launcher_is_gone(tmp_path: Path) -> None:
    said = tmp_path / "said"
    environment = {
        **os.environ,
        STOP_FILE_VARIABLE: str(tmp_path / "stop"),
        "RANK": "0",
        "WORLD_SIZE": "2",
    }
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, STUCK, str(said)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    wait_until(said.exists, "the rank was there")
    assert Path(f"/proc/{pid}").exists()

    launcher.kill()
    launcher.wait()
    launcher.stdout.close()

    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the rank was gone")
    assert said.read_text() == "False"


def test_a_process_that_is_no_rank_is_never_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    program = "from server_worker.training.parent import Parent; print(Parent().wants_stop())"

    def answer(**variables: str) -> str:
        environment = {**os.environ, STOP_FILE_VARIABLE: str(tmp_path / "stop"), **variables}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout.strip()

    assert answer() == "False"
    assert answer(RANK="1", WORLD_SIZE="2") == "True"
    assert not Parent().wants_stop()
