"""The demonstration from beginning to end: bring it up, contribute, train, export, generate, measure, report."""

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from threadpoolctl import threadpool_limits

from broker.node.local_node import LocalNode
from collafuse.demo.design import Design
from collafuse.demo.errors import DemoFailed
from collafuse.demo.federation import (
    TRAINER,
    Places,
    agent,
    denoisers,
    make_identities,
    scrape,
    start_agents,
    start_workers,
    value,
)
from collafuse.demo.figures import Figures, Observed, gallery
from collafuse.demo.generation import generate
from collafuse.demo.processes import POLL_SECONDS, Processes
from collafuse.demo.training import train_everything
from evaluation.data.digits import load_digits
from evaluation.data.images import ClientData, write_npz
from evaluation.data.partition import by_client
from evaluation.reporting.demo_report import write
from evaluation.reporting.demo_results import (
    DemoResult,
)
from evaluation.reporting.narrator import Narrator
from server_worker import versions
from server_worker.storage import Storage

ARRIVAL_SECONDS = 180.0


def run(design: Design, out: Path, narrator: Narrator) -> tuple[Path, Path, DemoResult]:
    """Run the demonstration; returns the paths of report and summary, and the result.

    Everything it makes lies in `out`; every process it starts is ended, however it ends. Raises DemoFailed, or the error of the
    part that failed, when something does not work.
    """
    started, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    places = Places(_fresh(out / "state"))
    clients = by_client(load_digits(), design.clients, seed=design.seed)
    node = LocalNode(places.node)
    part = narrator.part("private RabbitMQ node and identities")
    try:
        info = node.start()
        make_identities(info, design, places)
        part.end(f"port {info.ports.amqp}")
        with Processes(places.logs) as processes:
            _bring_up(processes, design, places, clients, narrator)
            curves = train_everything(processes, design, places, narrator)
            _wait_for_the_last_version(processes, design, places)
            sets = generate(processes, design, places, clients, narrator)
            observed = Observed(
                scrape(places, TRAINER, processes),
                [scrape(places, name, processes) for name in denoisers(design)],
                {client: scrape(places, agent(client), processes) for client in design.clients},
            )
        part = narrator.part("measuring fidelity, disclosure and the accounts")
        # The matrices are tiny: a second BLAS thread would only wait for the first.
        with threadpool_limits(limits=1):
            result = Figures(design, places, clients, sets, observed, info).result(
                curves, started, started_at
            )
        part.end()
    finally:
        node.stop()
    report, summary = write(out, result, [gallery(client, sets[client.name]) for client in clients])
    return report, summary, result


def _bring_up(
    processes: Processes, design: Design, places: Places, clients: Sequence[ClientData], narrator: Narrator
) -> None:
    part = narrator.part("workers and agents start, clients contribute")
    for client in clients:
        write_npz(places.data(client.name), client.train)
    start_workers(processes, design, places, min_samples=sum(len(client.train) for client in clients))
    start_agents(processes, design, places)
    shared = ["--schedule", design.schedule, "--schedule-steps", str(design.timesteps)]
    shared += ["--cut-ratio", str(design.cut_ratio)]
    contributions = []
    for client in clients:
        name = client.name
        own = ["--config", str(places.credentials(name)), "--state", str(places.state(name))]
        arguments = ["edge", "contribute", str(places.data(name)), *own, *shared]
        contributions.append(processes.start(f"contribute-{name}", arguments))
    processes.finish(contributions)
    part.end(f"{sum(len(client.train) for client in clients)} releases")


def _wait_for_the_last_version(processes: Processes, design: Design, places: Places) -> None:
    """Both sides are ready: the denoise workers have the final backbone, the agents have their heads."""
    newest = versions.latest(Storage(places.storage))
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while True:
        have = [
            value(scrape(places, name, processes), "collafuse_backbone_version") for name in denoisers(design)
        ]
        heads = [
            value(scrape(places, agent(client), processes), "collafuse_head_info")
            for client in design.clients
        ]
        if all(number == newest for number in have) and all(heads):
            return
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"backbone version {newest} or the heads did not arrive everywhere within {ARRIVAL_SECONDS:g} s "
                f"(workers have {have}); the logs are in {places.logs}"
            )
        time.sleep(POLL_SECONDS)


def _fresh(folder: Path) -> Path:
    """An empty folder for this run's state; the last run's is removed."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise DemoFailed(f"cannot make {folder} afresh: {error.strerror}; choose another --out") from error
    return folder
