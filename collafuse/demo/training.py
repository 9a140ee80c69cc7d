"""The training part of the run: the server's backbone, and meanwhile each client's head and its isolated rival."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from collafuse.demo.design import Design, Network
from collafuse.demo.federation import TRAINER, Places, scrape, value
from collafuse.demo.narrator import Narrator, Part
from collafuse.demo.processes import Child, Processes
from edge_agent.training import HeadTraining
from evaluation.results import Curve
from monitoring.metrics import NOISE_LEVELS

LOOK_SECONDS = 1.0
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


class ClientTrainings:
    """Trains what the clients train, one network after another, beside the server."""

    def __init__(self, processes: Processes, design: Design, places: Places, part: Part) -> None:
        self._processes = processes
        self._design = design
        self._places = places
        self._part = part
        # Heads first: the agents can use them while the isolated rivals are still at it.
        self._queue = [(client, kind) for kind in (HEAD, ISOLATED) for client in design.clients]
        self._total = len(self._queue)
        self._running: Child | None = None

    def look(self) -> bool:
        """Start the next training when the last is done; True once all are."""
        if self._running is not None and not self._processes.done(self._running):
            self._tell(self._running)
            return False
        if not self._queue:
            return True
        client, kind = self._queue.pop(0)
        self._running = self._processes.start(
            f"train-{kind}-{client}", self._arguments(client, kind), module="edge_agent.local_training"
        )
        return False

    def _arguments(self, client: str, kind: str) -> list[str]:
        design = self._design
        network: Network = design.head if kind == HEAD else design.isolated
        training = HeadTraining(
            client=client,
            schedule=design.schedule,
            timesteps=design.timesteps,
            cut=design.cut_ratio if kind == HEAD else 1.0,
            steps=network.steps,
            batch_size=network.batch_size,
            base_channels=network.base_channels,
            learning_rate=network.learning_rate,
            num_classes=design.num_classes,
            seed=design.seed,
            threads=1,
        )
        out = self._places.checkpoint(client, kind)
        return [str(self._places.data(client)), "--out", str(out), *training.arguments(), "--json-progress"]

    def _tell(self, child: Child) -> None:
        progress = _last_progress(child.log)
        finished = self._total - len(self._queue) - 1
        share = progress.get("step", 0) / progress.get("steps", 1)
        note = (
            f"{child.name.removeprefix('train-')}, loss {progress['loss']:.3f}"
            if "loss" in progress
            else child.name
        )
        self._part.update(finished + share, note)


def train_everything(
    processes: Processes, design: Design, places: Places, narrator: Narrator
) -> tuple[Curve, ...]:
    """Wait until the backbone and all of the clients' networks are trained; returns the backbone's loss curves."""
    backbone = BackboneWatch(
        processes,
        places,
        design.backbone.steps,
        narrator.part("server trains the backbone on what it was sent", design.backbone.steps),
    )
    heads_part = narrator.part("clients train their heads, and isolated rivals", 2 * len(design.clients))
    clients = ClientTrainings(processes, design, places, heads_part)
    backbone_done = clients_done = False
    while not (backbone_done and clients_done):
        processes.check()
        if not backbone_done and backbone.look():
            backbone_done = True
            backbone.part.end(f"{design.backbone.steps} steps")
        if not clients_done and clients.look():
            clients_done = True
            heads_part.end(f"{2 * len(design.clients)} networks")
        time.sleep(LOOK_SECONDS)
    return backbone.curves()


def export_heads(processes: Processes, design: Design, places: Places, narrator: Narrator) -> None:
    """Export every trained network to a bundle, behind the parity gate; running agents pick their heads up."""
    part = narrator.part("export to ONNX behind the parity gate", 2 * len(design.clients))
    for done, (client, kind) in enumerate((c, k) for k in (HEAD, ISOLATED) for c in design.clients):
        source, bundle = places.checkpoint(client, kind), places.bundle(client, kind)
        arguments = ["export", "head", str(source), "--out", str(bundle), "--name", f"{client}-{kind}"]
        processes.finish([processes.start(f"export-{kind}-{client}", arguments)])
        part.update(done + 1, bundle.name)
    part.end(f"{2 * len(design.clients)} bundles")


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
