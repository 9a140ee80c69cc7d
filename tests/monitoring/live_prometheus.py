"""A real Prometheus for one test: its own ports and storage, on the loopback interface, ended by the test."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.conftest import WAIT_SECONDS, wait_until

CONFIGURATION = Path(__file__).parents[2] / "monitoring" / "prometheus"


@dataclass(frozen=True)
class LivePrometheus:
    """A Prometheus that answers at `url`."""

    url: str

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

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=2).is_success
        except httpx.HTTPError:
            return False


@contextmanager
def run(directory: Path, targets: Mapping[str, list[int]]) -> Iterator[LivePrometheus]:
    """Run Prometheus with our configuration, but scraping these loopback ports, once a second.

    Args:
        directory: an empty one; configuration and storage go there.
        targets: job name → ports.
    """
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install prometheus"
    _write_configuration(directory, targets)
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
        live = LivePrometheus(f"http://127.0.0.1:{port}")
        wait_until(live.ready, f"Prometheus is ready; its log is {directory / 'log'}")
        yield live
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)


def _write_configuration(directory: Path, targets: Mapping[str, list[int]]) -> None:
    configuration = yaml.safe_load((CONFIGURATION / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"] for job in configuration["scrape_configs"]}
    assert set(targets) <= jobs, "a job that our configuration does not have"
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        for job, ports in targets.items()
    ]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    for name in configuration["rule_files"]:
        rules = yaml.safe_load((CONFIGURATION / name).read_text(encoding="utf-8"))
        for group in rules["groups"]:
            group["interval"] = "1s"
        (directory / name).write_text(yaml.safe_dump(rules), encoding="utf-8")
