"""The result of a run, put together from everything that the processes left behind."""

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np
import torch

from broker.node.local_node import NodeInfo
from collafuse.demo import measurement
from collafuse.demo.design import Design
from collafuse.demo.federation import Metrics, Places, value
from collafuse.demo.generation import Generated
from collafuse.demo.training import HEAD, ISOLATED
from diffusion.schedule import NoiseSchedule
from evaluation.data.images import ClientData
from evaluation.metrics.comparison import compare_fidelity
from evaluation.metrics.features import Classifier, train_classifier
from evaluation.metrics.fidelity import floor, measure
from evaluation.metrics.spread import Spread
from evaluation.reporting.demo_results import (
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
from evaluation.reporting.gallery import Gallery
from export.bundle.bundle import read_bundle
from export.bundle.manifest import Manifest
from export.checkpoint import load_checkpoint
from server_worker import versions
from server_worker.storage import Storage

GALLERY_IMAGES = 10
PACKAGES = ("torch", "onnxruntime", "pika", "numpy", "msgpack-numpy")


@dataclass(frozen=True)
class Observed:
    """What the processes said of themselves at the end of the run."""

    trainer: Metrics
    denoisers: Sequence[Metrics]
    agents: dict[str, Metrics]


@dataclass(eq=False)
class Figures:
    """Everything that the figures are made of."""

    design: Design
    places: Places
    clients: tuple[ClientData, ...]
    sets: dict[str, list[Generated]]
    observed: Observed
    node: NodeInfo

    def result(self, curves: tuple[Curve, ...], started: float, started_at: str) -> DemoResult:
        """Everything measured. curves: the backbone's; started: monotonic seconds; started_at: the same moment for people."""
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
            backbone_versions=round(value(observed.trainer, "collafuse_backbone_version", follow="latest")),
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
            digits=client.labels,
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


def gallery(client: ClientData, sets: Sequence[Generated]) -> Gallery:
    """The first few images of the first seed, the labels in turn; none is chosen for its looks."""
    labels = sets[0].finished.labels
    digits = client.labels
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
