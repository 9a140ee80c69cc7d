"""The demo as a user runs it, with hardly any training."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from evaluation.reporting.demo_results import from_json
from tests.conftest import WAIT_SECONDS, processes_of, wait_until

DEMO_SECONDS = 1200


def start_demo(out: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "collafuse", "demo", "--quick", "--out", str(out), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_whole_path_runs_and_every_message_is_accounted_for(tmp_path: Path) -> None:
    out = tmp_path / "demo_out"
    demo = start_demo(out, "--json")
    printed, told = demo.communicate(timeout=DEMO_SECONDS)

    assert demo.returncode == 0, told
    result = from_json((out / "summary.json").read_text())
    assert json.loads(printed) == json.loads((out / "summary.json").read_text())
    assert [client.digits for client in result.clients] == [(0, 1, 2), (3, 4, 5), (6, 7, 8, 9)]
    for kind, account in result.accounting.items():
        assert account.attempted > 0, kind
        assert account.attempted == account.acknowledged == account.stored, kind
        assert account.lost == account.duplicated == account.dead_lettered == account.unexpected == 0, kind
    for client in result.clients:
        assert client.provider == "cpu"
        assert client.server_step_seconds is not None
        assert client.device_step_seconds is not None
        assert client.queue_lag_seconds is not None
        assert client.collaborative.frechet.standard_deviation > 0
        assert client.disclosure.open_mse.mean < client.disclosure.released_mse.mean
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=\"https?:", page), "the report needs nothing outside itself"
    assert all(client.name in page for client in result.clients)
    assert processes_of(out) == []


def test_an_interrupted_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    out = tmp_path / "demo_out"
    demo = start_demo(out)
    try:
        wait_until(
            lambda: len(list((out / "state" / "metrics").glob("*"))) >= 6 and len(processes_of(out)) > 6,
            "broker, workers and agents run",
        )
    finally:
        demo.send_signal(signal.SIGINT)
    _, told = demo.communicate(timeout=WAIT_SECONDS)

    assert demo.returncode == 130, told
    assert "Traceback" not in told
    assert processes_of(out) == []
