"""Bringing the federation up: a private broker, its identities, the workers and the agents, each a process of its own."""

import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from broker.command import declare_on
from broker.credentials import write_credentials, write_secret
from broker.identities import enroll, server_user
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from collafuse.demo.design import Design
from collafuse.demo.errors import DemoFailed
from collafuse.demo.processes import Processes

START_TIMEOUT_SECONDS = 180.0
TRAINER = "train-worker"

Metrics = dict[str, list[tuple[dict[str, str], float]]]
"""Sample name → (labels, value) of each series."""


@dataclass(frozen=True)
class Places:
    """Where everything of one run lies, below one folder."""

    root: Path

    @property
    def node(self) -> Path:
        """The private broker."""
        return self.root / "broker"

    @property
    def logs(self) -> Path:
        """What the processes wrote."""
        return self.root / "logs"

    @property
    def storage(self) -> Path:
        """The server's samples, checkpoints and versions."""
        return self.root / "server"

    @property
    def worker_credentials(self) -> Path:
        """The workers' settings file."""
        return self.root / "worker.toml"

    def client(self, name: str) -> Path:
        """A client's own folder; nobody else reads it."""
        return self.root / "clients" / name

    def credentials(self, name: str) -> Path:
        """The settings file of a client's device."""
        return self.client(name) / "device.toml"

    def state(self, name: str) -> Path:
        """The state directory of a client's device."""
        return self.client(name) / "state"

    def data(self, name: str) -> Path:
        """A client's private images."""
        return self.client(name) / "images.npz"

    def checkpoint(self, name: str, kind: str) -> Path:
        """A trained network of a client; kind: head or isolated."""
        return self.client(name) / f"{kind}.safetensors"

    def bundle(self, name: str, kind: str) -> Path:
        """The same, exported for its device."""
        return self.client(name) / f"{kind}.bundle"

    def metrics_port(self, process: str) -> Path:
        """Where a process says on which port it serves its metrics."""
        return self.root / "metrics" / f"{process}.json"


def make_identities(node: NodeInfo, design: Design, places: Places) -> None:
    """Declare the queues; make one user for the workers and one for each device, with the rights of its kind and no more."""
    address = BrokerSettings.from_url(node.amqp_url)
    declare_on(address)
    with Management(node.management_url, node.user, node.password) as management:
        worker = server_user(management, "worker", address=address)
        write_secret(
            f'broker_url = "{worker.url.get_secret_value()}"\n', places.worker_credentials, replace=True
        )
        for client in design.clients:
            credentials = enroll(management, client, design.device, address=address)
            places.client(client).mkdir(parents=True, exist_ok=True)
            write_credentials(credentials, places.credentials(client))


def start_workers(processes: Processes, design: Design, places: Places, min_samples: int) -> None:
    """Start the train worker, which waits for `min_samples` samples, and the denoise workers, which wait for a version."""
    backbone = design.backbone
    shared = ["--config", str(places.worker_credentials), "--storage", str(places.storage), "--threads", "1"]
    train = {
        "schedule": design.schedule,
        "schedule-steps": design.timesteps,
        "channels": 1,
        "image-size": 8,
        "num-classes": design.num_classes,
        "cut-min": design.cut_ratio,
        "base-channels": backbone.base_channels,
        "channel-multipliers": "1,2",
        "blocks-per-level": 1,
        "steps": backbone.steps,
        "batch-size": backbone.batch_size,
        "lr": backbone.learning_rate,
        "min-samples": min_samples,
        "checkpoint-steps": design.publish_steps,
        "publish-steps": design.publish_steps,
        "seed": design.seed,
        "round": 10,
    }
    flags = [part for name, value in train.items() for part in (f"--{name}", str(value))]
    processes.serve(TRAINER, ["worker", "train", *shared, *flags, *_metrics(places, TRAINER)])
    for name in denoisers(design):
        processes.serve(name, ["worker", "denoise", *shared, *_metrics(places, name)])


def start_agents(processes: Processes, design: Design, places: Places) -> None:
    """Start one agent for each client; its head comes later, and it looks out for it."""
    for client in design.clients:
        arguments = ["--config", str(places.credentials(client)), "--state", str(places.state(client))]
        arguments += ["--head", str(places.bundle(client, "head")), "--provider", "auto", "--threads", "1"]
        arguments += ["--schedule", design.schedule, "--schedule-steps", str(design.timesteps)]
        arguments += ["--cut-ratio", str(design.cut_ratio), "--sampler", design.sampler]
        arguments += ["--server-steps", str(design.server_steps), "--head-steps", str(design.head_steps)]
        name = agent(client)
        processes.serve(name, ["edge", "run", "--no-api", *arguments, *_metrics(places, name)])


def denoisers(design: Design) -> list[str]:
    """The names of the denoise workers' processes."""
    return [f"denoise-worker-{number}" for number in range(1, design.denoise_workers + 1)]


def agent(client: str) -> str:
    """The name of an agent's process."""
    return f"agent-{client}"


def scrape(places: Places, process: str, processes: Processes) -> Metrics:
    """What a process says at its /metrics, waiting for it to come up. Raises DemoFailed when it does not."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    port_file = places.metrics_port(process)
    while not port_file.exists():
        processes.check()
        if time.monotonic() > deadline:
            raise DemoFailed(
                f"{process} did not start within {START_TIMEOUT_SECONDS:g} s; its log is in {places.logs}"
            )
        time.sleep(0.1)
    port = int(port_file.read_text())
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError as error:
        processes.check()
        raise DemoFailed(
            f"{process} does not answer at its /metrics ({error}); its log is in {places.logs}"
        ) from error
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the series of that name whose labels include those given; 0 where there are none."""
    return sum(number for found, number in metrics.get(name, []) if labels.items() <= found.items())


def _metrics(places: Places, process: str) -> list[str]:
    places.metrics_port(process).parent.mkdir(parents=True, exist_ok=True)
    return ["--metrics-port", "0", "--metrics-port-file", str(places.metrics_port(process))]
