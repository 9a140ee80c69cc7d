"""Prometheus' own tool accepts the configuration, and every alert has been seen to fire and to be silent."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.topology import FEDERATION
from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULE_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))


def promtool(*arguments: str | Path) -> str:
    tool = shutil.which("promtool")
    assert tool, "promtool is missing: apt-get install prometheus"
    ended = subprocess.run(
        [tool, *arguments], capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_configuration_and_its_rules_are_accepted() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", PROMETHEUS / "alerts.yml", PROMETHEUS / "recording.yml")


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_and_are_silent_as_written(file: Path) -> None:
    promtool("test", "rules", file)


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                (firing if check["exp_alerts"] else silent).add(check["alertname"])
    names = {alert["alert"] for alert in alerts()}
    assert firing == names
    assert silent == names


def test_every_alert_says_what_happened_and_what_to_do() -> None:
    for alert in alerts():
        assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert set(alert["annotations"]) == {"summary", "action", "runbook_url"}


def test_a_queue_counts_as_nearly_full_by_the_limits_that_it_is_declared_with() -> None:
    rules = (PROMETHEUS / "recording.yml").read_text(encoding="utf-8")
    found = re.findall(r'collafuse_queue_message_bytes\{queue="(\w+)"\} / (\d+)', rules)
    assert {name: int(limit) for name, limit in found} == {
        queue.name: queue.arguments["x-max-length-bytes"]
        for queue in FEDERATION.queues
        if queue.arguments["x-overflow"] == "reject-publish"
    }
