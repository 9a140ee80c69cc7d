"""The benchmarks can be called, and tell their figures in the agreed form; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import edge, fleet, fleet_rollout, report
from benchmarks.devices import a_node
from benchmarks.report import Result
from broker.node.local_node import NodeInfo
from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "typer.run(main)" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_its_two_modes(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_SECONDS,
        cwd=ROOT,
    )

    assert {"--quick", "--json"} <= set(done.stdout.split())


def test_what_a_connection_logs_stays_out_of_the_printed_object(node: NodeInfo) -> None:
    program = (
        "import sys; from benchmarks import publish; publish.keep_stdout_clear(); "
        "publish.ours(sys.argv[1], 'samples', [], lambda: None); print('{}')"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, node.amqp_url],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_SECONDS,
        cwd=ROOT,
    )

    assert done.stdout == "{}\n"


def test_results_are_told_in_the_agreed_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    fast = report.rate("1 KiB", "messages/s", [9.0, 12.0, 10.0], "another", [2.0, 2.0], 5)
    slow = report.rate("1 MiB", "messages/s", [1.0], "another", [2.0], 0.8)
    alone = Result("memory", "kB", 3.0, None, None, None, None, "3 to 3, 1 rounds")

    report.emit("trial", [fast, slow, alone], as_json=True, quick=False, broker="3.10.8")

    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "trial.json").read_text())
    assert set(printed) == {"benchmark", "machine", "results"}
    assert [set(result) for result in printed["results"]] == [
        {"name", "unit", "ours", "rival", "rival_value", "ratio", "bar", "spread"}
    ] * 3
    assert (fast.ratio, fast.missed, slow.missed, alone.missed) == (5.0, False, True, False)
    assert fast.spread == "9 to 12, 3 rounds"

    report.emit("trial", [fast, slow, alone], as_json=False, quick=True, broker="3.10.8")
    assert "MISSED" in capsys.readouterr().out


def test_what_should_stay_below_a_limit_misses_it_above() -> None:
    below = edge.at_most("memory", "MB", [90.0, 60.0, 80.0], 120)
    above = edge.at_most("memory", "MB", [130.0, 121.0, 100.0], 120)

    assert (below.ours, below.ratio, below.missed, below.spread) == (80.0, 1.5, False, "60 to 90, 3 rounds")
    assert (above.ours, above.missed) == (121.0, True)


def test_a_fleet_that_lost_nothing_is_told_with_all_its_figures() -> None:
    with a_node() as local:
        results = fleet.a_day(local, agents=8, seconds=3, images=2)

    found = {result.name: result.ours for result in results}
    assert found["messages lost, of 16"] == 0
    assert found["outboxes not empty, of 8"] == 0
    assert found["agent's memory, one of 8 in a process"] > 0
    drained = [result for result in results if result.name.startswith("links ")]
    assert len(drained) == 5
    assert all(0 < result.ours < 300 for result in drained)


def test_a_rollout_tells_how_long_it_took_and_reaches_every_device() -> None:
    with a_node() as local:
        took, without = fleet_rollout.rollout(local, agents=4, processes=1)

    assert 0 < took.ours < fleet_rollout.PATIENCE_SECONDS
    assert (without.name, without.ours) == ("devices that do not have it, of 4", 0)


def test_kept_results_are_of_benchmarks_that_exist() -> None:
    kept = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}

    assert kept <= set(NAMES)
    for name in kept:
        found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
        assert found["benchmark"] == name
        assert found["results"]


def test_the_tables_of_figures_are_made_from_the_kept_results() -> None:
    for path, table in report.pages().items():
        shown = path.read_text(encoding="utf-8")
        assert f"{report.TABLE_START}\n{table}\n{report.TABLE_END}" in shown, (
            "run python -m benchmarks.report"
        )
