"""A whole federation of real processes: brokers, workers, and agents behind faulty links."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from broker.credentials import write_secret
from broker.identities import enroll, server_user
from broker.settings import BrokerSettings
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, open_state
from export.checkpoint import save_checkpoint
from export.head_export import export_head
from server_worker.storage import Storage
from tests.brokers import Brokers
from tests.chaos.processes import Process
from tests.export.heads import metadata_of, random_network
from tests.link import Link
from tests.server_worker.backbones import CLASSES, SCHEDULE, SHAPE, publish_backbone

T_CUT = 40
IMAGES = 2
"""Images of each device: every release of theirs together is one message."""
CLIENTS = 4


@dataclass(frozen=True, eq=False)
class Device:
    """One agent: its process, its private images and what it keeps."""

    client: str
    name: str
    state: StateDirectory
    images: Path
    agent: Process
    spool: Spool

    def settings(self, releases: int) -> EdgeSettings:
        """What a contribution of so many releases of every image is made with."""
        return EdgeSettings(
            state=self.state.path,
            schedule="linear",
            schedule_steps=SCHEDULE.T,
            cut_ratio=T_CUT / SCHEDULE.T,
            releases=releases,
        )


@dataclass(eq=False)
class Federation:
    """Everything that runs, below `root`.

    agents, denoisers: how many processes.  groups: how many links to each broker the agents share.
    """

    root: Path
    brokers: Brokers
    agents: int = 20
    denoisers: int = 2
    groups: int = 5
    devices: list[Device] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def __enter__(self) -> Self:
        (self.root / "logs").mkdir(parents=True)
        publish_backbone(self.storage)
        self._make_workers()
        self._make_devices(self._make_head())
        for process in self.processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
        for device in self.devices:
            device.spool.close()
        for link in self.links:
            link.close()

    @property
    def storage(self) -> Storage:
        """The server's."""
        return Storage(self.root / "server")

    @property
    def processes(self) -> list[Process]:
        """Workers and agents."""
        return [*self.workers, *(device.agent for device in self.devices)]

    def _log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def _make_head(self) -> Path:
        network = random_network(CLASSES)
        facts = metadata_of(network, t_cut=T_CUT).model_copy(
            update={
                "schedule_name": SCHEDULE.name,
                "schedule_T": SCHEDULE.T,
                "schedule_id": SCHEDULE.schedule_id,
            }
        )
        save_checkpoint(self.root / "head.safetensors", network, facts)
        export_head(self.root / "head.safetensors", self.root / "head.bundle")
        return self.root / "head.bundle"

    def _way(self, url: str) -> str:
        """A URL that leads through links of its own, one to each broker."""
        settings = BrokerSettings.from_url(url)
        links = [Link(info.ports.amqp) for info in self.brokers.infos]
        self.links += links
        hosts = ",".join(f"127.0.0.1:{link.port}" for link in links)
        return url.replace(f"{settings.host}:{settings.port}", hosts)

    def _make_workers(self) -> None:
        with self.brokers.management as management:
            worker = server_user(management, "worker", address=self.brokers.settings)
        config = self.root / "worker.toml"
        write_secret(f'broker_url = "{self._way(worker.url.get_secret_value())}"\n', config, replace=True)
        shared = ["--config", config, "--storage", self.root / "server", "--threads", 1, "--device", "cpu"]
        shared += ["--connect-timeout", 120]
        train = ["--schedule", "linear", "--schedule-steps", SCHEDULE.T, "--num-classes", CLASSES]
        train += ["--channels", SHAPE[0], "--image-size", SHAPE[1], "--base-channels", 8]
        train += ["--channel-multipliers", "1,2", "--cut-min", 0.2, "--cut-max", 0.8, "--round", 5]
        train += ["--releases-wanted", 10**6, "--min-samples", 10**9, "--ingest-prefetch", 64]
        self.workers.append(Process("trainer", self._log("trainer"), "worker", "train", *shared, *train))
        for number in range(self.denoisers):
            name = f"denoiser-{number}"
            self.workers.append(Process(name, self._log(name), "worker", "denoise", *shared))

    def _make_devices(self, head: Path) -> None:
        with self.brokers.management as management:
            for number in range(self.agents):
                client, name = f"clinic-{number % CLIENTS}", f"device-{number}"
                credentials = enroll(management, client, name, address=self.brokers.settings)
                if number % max(1, self.agents // self.groups) == 0 or number == 0:
                    way = self._way(credentials.amqp_url)
                self.devices.append(self._make_device(number, client, name, credentials.amqp_url, way, head))

    def _make_device(self, number: int, client: str, name: str, url: str, way: str, head: Path) -> Device:
        folder = self.root / "devices" / name
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        np.savez(
            folder / "images.npz",
            images=rng.uniform(-1, 1, (IMAGES, *SHAPE)).astype(np.float32),
            labels=rng.integers(0, CLASSES, IMAGES),
        )
        # The group's links, with this device's own user and password.
        scheme, _, rest = url.partition("://")
        own = f"{scheme}://{rest.rpartition('@')[0]}@{way.rpartition('@')[2]}"
        write_secret(
            f'client = "{client}"\ndevice = "{name}"\nbroker_url = "{own}"\n',
            folder / "device.toml",
            replace=True,
        )
        state = open_state(folder / "state")
        arguments = [
            "edge",
            "run",
            "--no-api",
            "--config",
            folder / "device.toml",
            "--state",
            state.path,
            "--head",
            head,
        ]
        arguments += [
            "--provider",
            "cpu",
            "--threads",
            1,
            "--schedule",
            "linear",
            "--schedule-steps",
            SCHEDULE.T,
        ]
        arguments += ["--cut-ratio", T_CUT / SCHEDULE.T, "--server-steps", 3, "--head-steps", 1]
        agent = Process(f"agent-{number}", self._log(f"agent-{number}"), *arguments)
        return Device(client, name, state, folder / "images.npz", agent, Spool(state.spool))


def depth(brokers: Brokers, queue: str) -> int | None:
    """Messages of a queue, those that somebody holds too; None while no broker can tell."""
    with contextlib.suppress(Exception), brokers.management as management:
        found = management.queue(brokers.first.vhost, queue)
        return None if found is None else int(found.get("messages", 0))
    return None
