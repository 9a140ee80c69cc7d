"""Agents with a page: real processes, as seen by a browser or a program on the same machine."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from edge_agent.storage.state import StateDirectory
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.agents import NOWHERE, Process


@dataclass(frozen=True)
class Served:
    """A running agent and a client of its page."""

    process: Process
    http: httpx.Client
    results: Path

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def make(self, **wish: Any) -> str:
        """Ask for images; the id of the job."""
        answer = self.http.post("/v1/images", json={"count": 2} | wish)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, job_id: str, state: str = "completed") -> dict[str, Any]:
        """Until the job is in that state."""
        wait_until(lambda: self.job(job_id)["state"] == state, f"the job is {state}")
        return self.job(job_id)


Serve = Callable[..., Served]
"""Starts an agent: (broker URL, further flags..., token=None)."""


@contextmanager
def serving(state: StateDirectory, folder: Path) -> Iterator[Serve]:
    """Agents on one state directory that serve their page on any free port; killed at the end if they still run."""
    running: list[Served] = []

    def start(url: str = NOWHERE, *flags: object, token: str | None = None) -> Served:
        port_file = folder / f"port-{len(running)}"
        process = Process(
            folder / f"agent-{len(running)}.log",
            *("edge", "run", "--state", state.path, "--broker-url", url),
            *("--schedule-steps", 200, "--threads", 1, "--api-port-file", port_file),
            *(() if "--api-port" in flags else ("--api-port", 0)),
            *flags,
            **({"COLLAFUSE_EDGE_API_TOKEN": token} if token else {}),
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        running.append(started(process, port_file, state.path / "results", headers))
        return running[-1]

    try:
        yield start
    finally:
        for served in running:
            served.http.close()
            served.process.kill()


def started(process: Process, port_file: Path, results: Path, headers: dict[str, str]) -> Served:
    """Wait until the page of an agent is served."""
    wait_until(lambda: port_file.exists() or process.exit_code is not None, "the page is served")
    assert process.exit_code is None, process.log.read_text()
    url = f"http://127.0.0.1:{int(port_file.read_text())}"
    return Served(process, httpx.Client(base_url=url, headers=headers, timeout=WAIT_SECONDS), results)


def events(answer: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, id and data of each server-sent event of a stream."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            continue
        if not line:
            if "data" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
            continue
        name, _, value = line.partition(": ")
        fields[name] = value
