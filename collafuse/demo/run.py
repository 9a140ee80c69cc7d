"""The demonstration from beginning to end: bring it up, contribute, train, export, generate, measure, report."""

import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from broker.local_node import LocalNode, NodeInfo
from collafuse.demo import measurement
from collafuse.demo.design import Design
from collafuse.demo.errors import DemoFailed
from collafuse.demo.federation import (
    TRAINER,
    Metrics,
    Places,
    agent,
    denoisers,
    make_identities,
    scrape,
    start_agents,
    start_workers,
    value,
)
from collafuse.demo.generation import Generated, generate
from collafuse.demo.narrator import Narrator
from collafuse.demo.processes import POLL_SECONDS, Processes
from collafuse.demo.training import HEAD, ISOLATED, train_everything
from diffusion.schedule import NoiseSchedule
from evaluation.comparison import compare_fidelity
from evaluation.digits import ClientData, by_client, load_digits, write_npz
from evaluation.features import Classifier, train_classifier
from evaluation.fidelity import floor, measure
from evaluation.gallery import Gallery
from evaluation.report import write
from evaluation.results import (
    Accounting,
    BudgetSide,
    ClassifierResult,
    ClientResult,
    Curve,
    DemoResult,
    EqualBudget,
    evaluation_share,
    total,
)
from evaluation.spread import Spread
from export.bundle import read_bundle
from export.checkpoint import load_checkpoint
from export.manifest import Manifest
from server_worker import versions
from server_worker.storage import Storage

ARRIVAL_SECONDS = 60.0
GALLERY_IMAGES = 10
PACKAGES = ("torch", "onnxruntime", "pika", "numpy", "msgpack-numpy")


@dataclass(frozen=True)
class Observed:
    """What the processes said of themselves at the end of the run."""

    trainer: Metrics
    denoisers: Sequence[Metrics]
    agents: dict[str, Metrics]


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
        result = _Measuring(design, places, clients, sets, observed, info).result(curves, started, started_at)
        part.end()
    finally:
        node.stop()
    report, summary = write(out, result, [_gallery(client, sets[client.name]) for client in clients])
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


@dataclass(eq=False)
class _Measuring:
    """Everything that the figures are made of."""

    design: Design
    places: Places
    clients: tuple[ClientData, ...]
    sets: dict[str, list[Generated]]
    observed: Observed
    node: NodeInfo

    def result(self, curves: tuple[Curve, ...], started: float, started_at: str) -> DemoResult:
        design, observed = self.design, self.observed
        classifier = train_classifier(self.clients, seed=design.seed)
        store = measurement.open_store(self.places)
        dead = measurement.dead_letters(self.node)
        books = {
            client.name: measurement.accounts(
                client.name, design, self.places, store, observed.agents[client.name], dead
            )
            for client in self.clients
        }
        results = tuple(
            self._client(client, classifier, total([books[client.name].samples, books[client.name].denoise]))
            for client in self.clients
        )
        schedule = NoiseSchedule.named(design.schedule, design.timesteps)
        return DemoResult(
            started_at=started_at,
            duration_seconds=time.monotonic() - started,
            machine=f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
            versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            processes={
                "RabbitMQ node": 1,
                "train worker": 1,
                "denoise worker": design.denoise_workers,
                "edge agent": len(self.clients),
            },
            dataset="scikit-learn's digits: 1,797 scans of handwritten digits, 8 × 8 pixels",
            schedule_name=schedule.name,
            schedule_steps=schedule.T,
            schedule_id=schedule.schedule_id,
            sampler=design.sampler,
            backbone_parameters=self._backbone_parameters,
            head_parameters=self._manifest(self.clients[0].name, HEAD).network.parameters,
            backbone_versions=round(value(observed.trainer, "collafuse_backbone_version")),
            classifier=ClassifierResult(
                classifier.name, classifier.held_out_accuracy, classifier.held_out_images
            ),
            backbone_curves=curves,
            clients=results,
            queue_lag_seconds=self._lags(),
            samples_per_network_call=measurement.histogram(
                observed.denoisers, "collafuse_denoise_batch_samples"
            ),
            accounting={
                "samples": total([book.samples for book in books.values()]),
                "denoise requests": total([book.denoise for book in books.values()]),
            },
        )

    def _client(self, client: ClientData, classifier: Classifier, accounting: Accounting) -> ClientResult:
        design, sets = self.design, self.sets[client.name]
        agent_metrics = self.observed.agents[client.name]
        collaborative = measure([made.finished for made in sets], client, classifier, seed=design.seed)
        isolated = measure([made.isolated for made in sets], client, classifier, seed=design.seed)
        others = np.concatenate([other.train.images for other in self.clients if other is not client])
        head = self._manifest(client.name, HEAD)
        return ClientResult(
            name=client.name,
            device_name=design.device,
            digits=client.digits,
            train_images=len(client.train),
            held_out_images=len(client.held_out),
            cut_ratio=design.cut_ratio,
            t_cut=head.t_cut,
            provider=_provider(agent_metrics),
            budget=self._budget(client),
            collaborative=collaborative,
            isolated=isolated,
            real_floor=floor(client, classifier, at_most=design.images_per_set, seed=design.seed),
            comparisons=compare_fidelity(collaborative, isolated),
            disclosure=measurement.given_away(
                client, others, design, self.places, measurement.open_store(self.places)
            ),
            evaluations=evaluation_share(design.server_steps, design.head_steps),
            server_step_seconds=measurement.histogram(
                self.observed.denoisers, "collafuse_denoise_step_seconds"
            ),
            device_step_seconds=measurement.histogram([agent_metrics], "collafuse_head_step_seconds"),
            queue_lag_seconds=measurement.histogram([agent_metrics], "collafuse_consume_lag_seconds"),
            request_seconds=measurement.histogram([agent_metrics], "collafuse_job_seconds"),
            accounting=accounting,
            head_curve=self._curve(client.name, HEAD),
            isolated_curve=self._curve(client.name, ISOLATED),
        )

    def _budget(self, client: ClientData) -> EqualBudget:
        design = self.design
        backbone, head, alone = design.backbone, design.head, design.isolated
        share = round(backbone.steps / len(self.clients))
        parameters = {kind: self._manifest(client.name, kind).network.parameters for kind in (HEAD, ISOLATED)}
        return EqualBudget(
            statement=(
                f"Equal optimiser updates of equal batches: the federation spends {backbone.steps} on the backbone, "
                f"{share} for each of its {len(self.clients)} clients, and {head.steps} on each head; a client alone "
                f"spends {share} + {head.steps} = {alone.steps} on one model of the whole chain, as wide as the backbone. "
                f"Both make an image with {design.evaluations} network evaluations."
            ),
            collaborative=BudgetSide(
                parameters=self._backbone_parameters + parameters[HEAD],
                updates=share + head.steps,
                images_per_update=backbone.batch_size,
                training_images=sum(len(other.train) for other in self.clients),
                evaluations_per_image=design.evaluations,
            ),
            isolated=BudgetSide(
                parameters=parameters[ISOLATED],
                updates=alone.steps,
                images_per_update=alone.batch_size,
                training_images=len(client.train),
                evaluations_per_image=design.evaluations,
            ),
        )

    @cached_property
    def _backbone_parameters(self) -> int:
        storage = Storage(self.places.storage)
        newest = versions.latest(storage)
        assert newest is not None, "images were generated, so there is a version"
        backbone = versions.load(storage, newest, torch.device("cpu"))
        return sum(parameter.numel() for parameter in backbone.network.parameters())

    def _manifest(self, client: str, kind: str) -> Manifest:
        return read_bundle(self.places.bundle(client, kind)).manifest

    def _curve(self, client: str, kind: str) -> Curve:
        points = load_checkpoint(self.places.checkpoint(client, kind)).metadata.loss_curve
        return Curve(kind, tuple(step for step, _ in points), tuple(loss for _, loss in points))

    def _lags(self) -> dict[str, Spread]:
        """Publish to consume, by queue; queues with fewer than two messages are left out."""
        sources: dict[str, Sequence[Metrics]] = {
            "samples": [self.observed.trainer],
            "denoise": self.observed.denoisers,
            "inbox": list(self.observed.agents.values()),
        }
        found = {
            queue: measurement.histogram(metrics, "collafuse_consume_lag_seconds", queue=queue)
            for queue, metrics in sources.items()
        }
        return {queue: lag for queue, lag in found.items() if lag is not None}


def _provider(agent_metrics: Metrics) -> str:
    """The execution provider that the agent says its head runs on."""
    running = [
        labels["provider"] for labels, number in agent_metrics.get("collafuse_head_info", []) if number
    ]
    return running[0] if running else "none"


def _gallery(client: ClientData, sets: Sequence[Generated]) -> Gallery:
    """The first few images of the first seed, the labels in turn; none is chosen for its looks."""
    labels = sets[0].finished.labels
    digits = client.digits
    wanted = [digits[column % len(digits)] for column in range(GALLERY_IMAGES)]
    turn = [column // len(digits) for column in range(GALLERY_IMAGES)]
    rows = np.array([np.flatnonzero(labels == digit)[nth] for digit, nth in zip(wanted, turn, strict=True)])
    held_out = client.held_out
    real = np.array(
        [np.flatnonzero(held_out.labels == digit)[nth] for digit, nth in zip(wanted, turn, strict=True)]
    )
    order = np.argsort(wanted, kind="stable")
    return Gallery(
        client=client.name,
        labels=labels[rows][order],
        at_cut=sets[0].at_cut[rows][order].astype(np.float32),
        finished=sets[0].finished.images[rows][order],
        isolated=sets[0].isolated.images[rows][order],
        real=held_out.images[real][order],
    )


def _fresh(folder: Path) -> Path:
    """An empty folder for this run's state; the last run's is removed."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise DemoFailed(f"cannot make {folder} afresh: {error.strerror}; choose another --out") from error
    return folder
