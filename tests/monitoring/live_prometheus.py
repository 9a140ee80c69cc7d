"""A real Prometheus for tests: its own ports and storage, on the loopback interface, ended by them."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.conftest import WAIT_SECONDS, wait_until

CONFIGURATION = Path(__file__).parents[2] / "monitoring" / "prometheus"


DURATION_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True)
class LivePrometheus:
    """A Prometheus that answers at `url`; what it scrapes stands in files in `targets`, which it follows."""

    url: str
    targets: Path

    def watch(self, job: str, *ports: int) -> None:
        """From now on scrape these loopback ports, and no others, as that job."""
        groups = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        draft = self.targets / f"{job}.draft"
        draft.write_text(json.dumps(groups), encoding="utf-8")
        draft.replace(self.targets / f"{job}.json")

    def query(self, expression: str) -> list[Any]:
        """The result vector of an instant query; an expression that is refused fails the test."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=WAIT_SECONDS
        ).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        result: list[Any] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=WAIT_SECONDS).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).is_success
        except httpx.HTTPError:
            return False


def hurried(rules: str, haste: float) -> str:
    """The text of a file of rules, as it would be if everything happened `haste` times as fast.

    Divided by it are every `for`, every window in square brackets and the interval of every group; and of the numbers that are
    compared with, those of seconds that a message waits (its age, its lag, that of the oldest).
    """

    def shorter(found: re.Match[str]) -> str:
        seconds = float(found["number"]) * DURATION_SECONDS[found["unit"]] / haste
        return f"{found['before']}{max(1, round(1000 * seconds))}ms"

    def less(found: re.Match[str]) -> str:
        return f"{found['before']}{float(found['number']) / haste:g}"

    duration = r"(?P<number>\d+)(?P<unit>ms|[smhd])\b"
    for before in (r"^ *for: ", r"^ *interval: ", r"\[", r"\boffset "):
        rules = re.sub(rf"(?P<before>{before}){duration}", shorter, rules, flags=re.MULTILINE)
    waiting = r"\w+:?\w+(?:_age|_lag|_oldest)_seconds(?::p95)?(?:\{[^}]*\})?(?:\[\w+\]\))? > "
    return re.sub(rf"(?P<before>{waiting})(?P<number>\d+)", less, rules)


@contextmanager
def run(directory: Path, *, haste: float) -> Iterator[LivePrometheus]:
    """Run Prometheus with our configuration and rules, `haste` times as fast; it scrapes once a second, nothing to begin with.

    Args:
        directory: an empty one; configuration and storage go there.
        haste: see `hurried`.
    """
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install prometheus"
    (directory / "targets").mkdir()
    _write_configuration(directory, haste)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        live = LivePrometheus(f"http://127.0.0.1:{port}", directory / "targets")
        wait_until(live.ready, f"Prometheus is ready; its log is {directory / 'log'}")
        yield live
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)


def _write_configuration(directory: Path, haste: float) -> None:
    configuration = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in configuration["scrape_configs"]:
        for found in [key for key in job if key.endswith("_sd_configs") or key == "static_configs"]:
            del job[found]
        job["file_sd_configs"] = [{"files": [str(directory / "targets" / f"{job['job_name']}.json")]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    for name in configuration["rule_files"]:
        rules = (CONFIGURATION / name).read_text(encoding="utf-8")
        (directory / name).write_text(hurried(rules, haste), encoding="utf-8")
