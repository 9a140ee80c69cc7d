"""The training part of the run: the server's backbone, and meanwhile each client's head and its isolated rival."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from collafuse.demo.design import Design, Network
from collafuse.demo.federation import TRAINER, Places, scrape, value
from collafuse.demo.processes import Child, Processes
from edge_agent.training.head_training import HeadTraining
from evaluation.reporting.demo_results import Curve
from evaluation.reporting.narrator import Narrator, Part
from monitoring.metrics import NOISE_LEVELS

LOOK_SECONDS = 0.5
HEAD, ISOLATED = "head", "isolated"


@dataclass
class BackboneWatch:
    """Follows the train worker through its metrics, and keeps the loss by noise level."""

    processes: Processes
    places: Places
    steps_wanted: int
    part: Part
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=lambda: {level: [] for level in NOISE_LEVELS})

    def look(self) -> bool:
        """Take one reading; True once the last version is published."""
        metrics = scrape(self.places, TRAINER, self.processes)
        steps = round(value(metrics, "collafuse_train_steps_total"))
        if steps and (not self.steps or steps > self.steps[-1]):
            self.steps.append(steps)
            for level in NOISE_LEVELS:
                self.losses[level].append(value(metrics, "collafuse_train_loss", noise_level=level))
        stored = round(value(metrics, "collafuse_store_samples"))
        loss = sum(series[-1] for series in self.losses.values() if series) / len(NOISE_LEVELS)
        self.part.update(
            steps, f"loss {loss:.3f}, {stored} samples stored" if steps else f"{stored} samples stored"
        )
        return steps >= self.steps_wanted

    def curves(self) -> tuple[Curve, ...]:
        """Loss over steps, by third of the noise range."""
        return tuple(
            Curve(f"{level} noise", tuple(self.steps), tuple(self.losses[level])) for level in NOISE_LEVELS
        )


@dataclass(frozen=True)
class _Job:
    """One network of one client, trained and then exported."""

    client: str
    kind: str


class ClientWork:
    """Trains and exports what the clients train, one network after another, beside the server; two once the server is done."""

    def __init__(self, processes: Processes, design: Design, places: Places, part: Part) -> None:
        self._processes = processes
        self._design = design
        self._places = places
        self._part = part
        # Heads first: the agents can take them up while the isolated rivals are still at it.
        self._waiting = [_Job(client, kind) for kind in (HEAD, ISOLATED) for client in design.clients]
        self._total = len(self._waiting)
        self._training: dict[_Job, Child] = {}
        self._exporting: dict[_Job, Child] = {}
        self._finished = 0

    def look(self, at_once: int) -> bool:
        """Move every job on and start waiting ones, at most `at_once` together; True once all are done."""
        for job, child in list(self._training.items()):
            if self._processes.done(child):
                del self._training[job]
                self._exporting[job] = self._export(job)
        for job, child in list(self._exporting.items()):
            if self._processes.done(child):
                del self._exporting[job]
                self._finished += 1
        while self._waiting and len(self._training) + len(self._exporting) < at_once:
            job = self._waiting.pop(0)
            self._training[job] = self._train(job)
        self._tell()
        return self._finished == self._total

    def _train(self, job: _Job) -> Child:
        design = self._design
        network: Network = design.head if job.kind == HEAD else design.isolated
        training = HeadTraining(
            client=job.client,
            schedule=design.schedule,
            timesteps=design.timesteps,
            cut=design.cut_ratio if job.kind == HEAD else 1.0,
            steps=network.steps,
            batch_size=network.batch_size,
            base_channels=network.base_channels,
            learning_rate=network.learning_rate,
            num_classes=design.num_classes,
            seed=design.seed,
            threads=1,
        )
        out = self._places.checkpoint(job.client, job.kind)
        arguments = [
            str(self._places.data(job.client)),
            "--out",
            str(out),
            *training.arguments(),
            "--json-progress",
        ]
        return self._processes.start(
            f"train-{job.kind}-{job.client}", arguments, module="edge_agent.training.local_training"
        )

    def _export(self, job: _Job) -> Child:
        """Through the parity gate into a bundle; a running agent picks its head up by itself."""
        source, bundle = (
            place(job.client, job.kind) for place in (self._places.checkpoint, self._places.bundle)
        )
        arguments = [
            "export",
            "head",
            str(source),
            "--out",
            str(bundle),
            "--name",
            f"{job.client}-{job.kind}",
        ]
        return self._processes.start(f"export-{job.kind}-{job.client}", arguments)

    def _tell(self) -> None:
        done, notes = float(self._finished + len(self._exporting)), []
        for job, child in self._training.items():
            progress = _last_progress(child.log)
            done += progress.get("step", 0) / progress.get("steps", 1)
            if "loss" in progress:
                notes.append(f"{job.client} {job.kind} {progress['loss']:.3f}")
        self._part.update(done, ", ".join(notes))


def train_everything(
    processes: Processes, design: Design, places: Places, narrator: Narrator
) -> tuple[Curve, ...]:
    """Wait until all is trained and exported; returns the backbone's loss curves."""
    backbone = BackboneWatch(
        processes,
        places,
        design.backbone.steps,
        narrator.part("server trains the backbone on what it was sent", design.backbone.steps),
    )
    networks = 2 * len(design.clients)
    part = narrator.part("clients train and export heads, and isolated rivals", networks)
    clients = ClientWork(processes, design, places, part)
    backbone_done = clients_done = False
    while not (backbone_done and clients_done):
        processes.check()
        if not backbone_done and backbone.look():
            backbone_done = True
            backbone.part.end(f"{design.backbone.steps} steps")
        if not clients_done and clients.look(at_once=2 if backbone_done else 1):
            clients_done = True
            part.end(f"{networks} networks, each within the parity gate")
        time.sleep(LOOK_SECONDS)
    return backbone.curves()


def _last_progress(log: Path) -> dict[str, float]:
    """The last report in a training's log; empty before the first."""
    for line in reversed(log.read_text(errors="replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "step" in found:
            return found
    return {}
