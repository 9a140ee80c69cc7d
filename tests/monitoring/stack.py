"""A whole federation of real processes that a real Prometheus reads: what the dashboards and alerts are tried on."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pika

from broker.contract.denoise import DenoiseV1, LatentsV1
from broker.credentials import write_credentials, write_exporter, write_worker
from broker.identities import enroll, exporter_user, server_user
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, QUEUE_DEAD, QUEUE_DENOISE, declare
from edge_agent import clock
from edge_agent.generation import jobs
from edge_agent.release import contribution
from edge_agent.release.images import open_images
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, contribution_lock, open_state
from tests.conftest import wait_until
from tests.edge_agent.agents import Process
from tests.export.heads import SCHEDULE, T_CUT, exported
from tests.monitoring.live_prometheus import LivePrometheus, run
from tests.server_worker.devices import Device, connect, new_request_id

CLASSES = 3
SHAPE = (1, 8, 8)
VERSIONS = 2
"""So many the trainer publishes, and then it is done."""
CLIP_NORM = 8.0
"""Of every release, so that an epsilon can be said."""
STEPS = 20
"""Of training, for each version."""
START_SECONDS = 120.0
SCHEDULED = ("--schedule", SCHEDULE.name, "--schedule-steps", SCHEDULE.T)


class Agent:
    """A device's agent and what it keeps; it makes pictures and contributes when it is told to."""

    def __init__(self, root: Path, client: str) -> None:
        self.client = client
        self.folder = root / client
        self.folder.mkdir()
        self.state: StateDirectory = open_state(self.folder / "state")
        self.spool = Spool(self.state.spool)
        self.process: Process | None = None
        rng = np.random.default_rng(len(client))
        images = rng.uniform(-1, 1, (16, *SHAPE)).astype(np.float32)
        np.savez(self.folder / "images.npz", images=images, labels=rng.integers(0, CLASSES, 16))

    def contribute(self, releases: int) -> None:
        """Release every image so often in its life."""
        settings = EdgeSettings(
            state=self.state.path,
            schedule=SCHEDULE.name,
            schedule_steps=SCHEDULE.T,
            cut_ratio=T_CUT / SCHEDULE.T,
            releases=releases,
            clip_norm=CLIP_NORM,
        )
        with contribution_lock(self.state):
            images = open_images(self.folder / "images.npz")
            contribution.contribute(self.spool, images, self.state.secret(), settings)

    def ask(self) -> None:
        """Accept a job, unless one is still under way."""
        if not self.spool.rows(
            "SELECT 1 FROM jobs WHERE state IN ('accepted', 'requested', 'partial', 'finishing')"
        ):
            jobs.accept(self.spool, count=2, label=0, seed=1, ttl_seconds=None, moment=clock.now())


class Stack:
    """One broker, one trainer, one denoise worker, two agents, the exporter, and a Prometheus `haste` times as fast as ours.

    The denoise worker takes one request at a time and one sample to a network call, so that it is easily given too much.
    """

    def __init__(self, root: Path, haste: float) -> None:
        self._root = root
        self._haste = haste
        self._stack = ExitStack()
        self._started = 0
        self.node = LocalNode(root / "node", config=["collect_statistics_interval = 1000"])
        self.node.directory.mkdir(mode=0o700)
        # What rabbitmq.conf has no word for: how often a quorum queue tells its figures.
        (self.node.directory / "advanced.config").write_text("[{rabbit, [{quorum_tick_interval, 1000}]}].\n")
        self.agents: list[Agent] = []
        self.prometheus: LivePrometheus
        self.denoiser: Process
        self._info: NodeInfo
        self._asker: Device
        self._exporter_port: int

    def __enter__(self) -> Self:
        try:
            self._stack.callback(self.node.kill)
            self._info = self.node.start()
            with pika.BlockingConnection(pika.URLParameters(self._info.amqp_url)) as amqp:
                declare(amqp.channel(), FEDERATION)
            (self._root / "prometheus").mkdir()
            self.prometheus = self._stack.enter_context(run(self._root / "prometheus", haste=self._haste))
            self.prometheus.watch("rabbitmq", self._info.ports.prometheus)
            self._start_all()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def storage(self) -> Path:
        """The workers'."""
        return self._root / "server"

    def start_denoiser(self) -> None:
        """Start the denoise worker, and have Prometheus look at it and at no other."""
        self.denoiser = self._start_denoiser("denoiser", self.storage)
        self.watch_denoiser()

    def watch_denoiser(self) -> None:
        """Have Prometheus look at the denoise worker, and at no other."""
        self.prometheus.watch("denoiser", self._port_of("denoiser"))

    def start_stale_denoiser(self) -> Process:
        """Start another on a copy of the storage that knows nothing of the newest version."""
        old = self._root / "old-copy"
        shutil.copytree(self.storage / "versions", old / "versions")
        (old / "versions" / "LATEST").write_text("1\n")
        return self._start_denoiser("stale-denoiser", old)

    def watch_both_denoisers(self) -> None:
        """Have Prometheus look at the denoise worker and at the one that was started on a copy."""
        self.prometheus.watch("denoiser", self._port_of("denoiser"), self._port_of("stale-denoiser"))

    def watch_exporter(self) -> None:
        """Have Prometheus look at the exporter."""
        self.prometheus.watch("exporter", self._exporter_port)

    def lose_exporter(self) -> None:
        """Have Prometheus find no exporter, as where its pod or its service's name is gone."""
        self.prometheus.watch("exporter")

    def start_agents(self) -> None:
        """Start both, and have Prometheus look at them."""
        self._start_agents()
        self._watch_agents()

    def _start_agents(self) -> None:
        for agent in self.agents:
            arguments = ["--config", agent.folder / "device.toml", "--state", agent.state.path, *SCHEDULED]
            arguments += ["--head", self._root / "head.bundle", "--provider", "cpu", "--threads", 1]
            arguments += ["--cut-ratio", T_CUT / SCHEDULE.T, "--server-steps", 3, "--head-steps", 1]
            arguments += [
                "--clip-norm",
                CLIP_NORM,
                "--telemetry",
                1,
                "--power-watts",
                5,
                *self._metrics(agent.client),
            ]
            agent.process = self._start(agent.client, "edge", "run", "--no-api", *arguments)

    def _watch_agents(self) -> None:
        self.prometheus.watch("edge", *(self._port_of(agent.client) for agent in self.agents))

    def ask(self, count: int) -> None:
        """Publish so many requests of one sample and twenty steps each."""
        for number in range(count):
            self._asker.ask(_request(number))

    @property
    def answers(self) -> int:
        """How many of them have been answered."""
        return len(self._asker.all_of(LatentsV1))

    def give_up_requests(self) -> None:
        """Empty the queue `denoise`."""
        self._purge(QUEUE_DENOISE)

    def send_garbage(self, kind: str, type_name: str, count: int) -> None:
        """Publish bytes that are no message, as a device of the federation."""
        for _ in range(count):
            self._asker.send_body(b"\x80", type_name, kind, new_request_id())

    def drop_dead_letters(self) -> None:
        """Empty the queue `dead`."""
        self._purge(QUEUE_DEAD)

    def _purge(self, queue: str) -> None:
        with pika.BlockingConnection(pika.URLParameters(self._info.amqp_url)) as amqp:
            amqp.channel().queue_purge(queue)

    def _start_all(self) -> None:
        """Processes start side by side, while the head is made here.

        The trainer opens its first round before there is any device: an announcement that reaches nobody.
        """
        with Management(self._info.management_url, self._info.user, self._info.password) as management:
            self._make_server_users(management)
            trainer = self._start_trainer()
            self.denoiser = self._start_denoiser("denoiser", self.storage)
            exporter = self._start(
                "exporter", "monitor", "exporter", "--config", self._root / "exporter.toml", "--port", 0
            )
            (self._root / "head.bundle").write_bytes(exported())
            wait_until(lambda: bool(trainer.events("round_opened")), "a round is open", START_SECONDS)
            self.prometheus.watch("trainer", self._port_of("trainer"))
            self._make_devices(management)
        self._start_agents()
        # Only what grows between two scrapes is a rate.
        wait_until(self._is_trainer_seen, "Prometheus has seen the trainer idle", START_SECONDS)
        for agent in self.agents:
            agent.contribute(releases=1)
        wait_until(lambda: bool(exporter.events("exporter_started")), "the exporter serves", START_SECONDS)
        self._exporter_port = int(exporter.events("exporter_started")[0]["port"])
        self.watch_exporter()
        self.watch_denoiser()
        self._watch_agents()
        wait_until(
            self._has_worked,
            f"all versions are served and pictures made; logs in {self._root}",
            START_SECONDS,
        )

    def _make_server_users(self, management: Management) -> None:
        address = BrokerSettings.from_url(self._info.amqp_url)
        worker = server_user(management, "worker", address=address)
        write_worker(worker, self._root / "worker.toml")
        exporter = exporter_user(management, "exporter", address=address)
        write_exporter(exporter, management.url, self._root / "exporter.toml")

    def _make_devices(self, management: Management) -> None:
        address = BrokerSettings.from_url(self._info.amqp_url)
        for client in ("clinic", "plant"):
            agent = Agent(self._root, client)
            self._stack.callback(agent.spool.close)
            self.agents.append(agent)
            credentials = enroll(management, client, "device-1", address=address)
            write_credentials(credentials, agent.folder / "device.toml")
        credentials = enroll(management, "lab", "asker", address=address)
        self._asker = connect(BrokerSettings.from_url(credentials.amqp_url), "lab", "asker")
        self._stack.callback(self._asker.connection.stop)

    def _start_trainer(self) -> Process:
        train = [*SCHEDULED, "--num-classes", CLASSES, "--channels", SHAPE[0], "--image-size", SHAPE[1]]
        train += ["--base-channels", 8, "--channel-multipliers", "1,2", "--cut-min", 0.2, "--cut-max", 0.8]
        train += ["--steps", VERSIONS * STEPS, "--publish-steps", STEPS, "--checkpoint-steps", STEPS]
        train += ["--store-max-bytes", 10**9, "--client-max-bytes", 10**9]
        train += ["--min-samples", 16, "--batch-size", 8, "--held-out-share", 0.25, "--round", 2]
        return self._start("trainer", "worker", "train", *self._shared("trainer", self.storage), *train)

    def _start_denoiser(self, name: str, storage: Path) -> Process:
        one_at_a_time = ["--max-batch", 1, "--requests-in-hand", 1]
        return self._start(name, "worker", "denoise", *self._shared(name, storage), *one_at_a_time)

    def _is_trainer_seen(self) -> bool:
        return bool(self.prometheus.query("collafuse_train_steps_total"))

    def _has_worked(self) -> bool:
        for agent in self.agents:
            agent.ask()
        served = self.prometheus.query('collafuse_backbone_version{job="denoiser"}')
        made = self.prometheus.query('sum(collafuse_jobs_total{outcome="completed"})')
        return (
            bool(served and made)
            and float(served[0]["value"][1]) == VERSIONS
            and float(made[0]["value"][1]) >= 2
        )

    def _shared(self, name: str, storage: Path) -> list[object]:
        config = ["--config", self._root / "worker.toml", "--storage", storage]
        return [*config, "--threads", 1, "--device", "cpu", *self._metrics(name)]

    def _metrics(self, name: str) -> list[object]:
        """Each start has a port file of its own, the newest of which counts."""
        self._port_file(name).unlink(missing_ok=True)
        return ["--metrics-port-file", self._port_file(name)]

    def _port_file(self, name: str) -> Path:
        return self._root / f"{name}.port"

    def _port_of(self, name: str) -> int:
        wait_until(self._port_file(name).exists, f"the {name} serves its metrics", START_SECONDS)
        return int(self._port_file(name).read_text())

    def _start(self, name: str, *arguments: object) -> Process:
        self._started += 1
        process = Process(self._root / f"{name}-{self._started}.log", *arguments)
        self._stack.callback(process.kill)
        return process


def _request(seed: int) -> DenoiseV1:
    return DenoiseV1(
        request_id=new_request_id(),
        shape=SHAPE,
        n=1,
        schedule_id=SCHEDULE.schedule_id,
        plan=tuple(range(SCHEDULE.T, T_CUT - 1, -7)),
        clip=1.0,
        seed=seed,
    )
