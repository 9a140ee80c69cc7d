"""A backup made under load brings a lost server back: its samples, its training, its users, and none of its queues' messages."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pika
import pytest

from broker.contract.receipts import ReceiptV1
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, declare
from collafuse.backup import archive
from collafuse.backup.errors import BackupDamaged
from collafuse.backup.restoring import restore
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from server_worker.training import checkpoints
from tests.chaos.processes import Process
from tests.conftest import wait_until
from tests.server_worker.backbones import CLASSES, SCHEDULE, SHAPE, T, sample_batch
from tests.server_worker.devices import Device, connect

ROOT = Path(__file__).parents[3]
LOAD_PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 120.0


def started(directory: Path) -> tuple[LocalNode, NodeInfo]:
    local = LocalNode(directory)
    return local, local.start()


def trainer(info: NodeInfo, storage: Path, log: Path) -> Process:
    train = [
        "--schedule",
        SCHEDULE.name,
        "--schedule-steps",
        T,
        "--num-classes",
        CLASSES,
        "--channels",
        SHAPE[0],
    ]
    train += [
        "--image-size",
        SHAPE[1],
        "--base-channels",
        8,
        "--channel-multipliers",
        "1,2",
        "--batch-size",
        8,
    ]
    train += ["--blocks-per-level", 1, "--cut-min", 0.2, "--cut-max", 0.8, "--min-samples", 16]
    train += [
        "--checkpoint-steps",
        20,
        "--publish-steps",
        60,
        "--round",
        1,
        "--threads",
        1,
        "--device",
        "cpu",
    ]
    return Process(
        log.stem, log, "worker", "train", "--storage", storage, "--broker-url", info.amqp_url, *train
    )


def collafuse_backup(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "collafuse", "backup", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )


@dataclass(eq=False)
class Load:
    """A device that sends a batch again and again, in a thread of its own; `sent` are the confirmed ones."""

    device: Device
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        seed = 0
        while not self._stop.wait(LOAD_PAUSE_SECONDS):
            self.sent.append(self.device.send_samples(sample_batch(seed)))
            seed += 1

    def receipted(self) -> set[str]:
        """What the server says it holds, by now."""
        return {receipt.batch_id for receipt in self.device.all_of(ReceiptV1)}

    def stop(self) -> None:
        """No more."""
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True)
class Lost:
    """A server that was backed up under load and is gone.

    before: batches it had receipted when the backup began.  step: of its newest checkpoint then.
    """

    backup: Path
    before: set[str]
    step: int
    amqp_url: str


def newest_step(storage: Path) -> int:
    found = checkpoints.load_newest(Storage(storage))
    return 0 if found is None else found.step


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    root = tmp_path_factory.mktemp("lost")
    local, info = started(root / "node")
    running = trainer(info, root / "server", root / "trainer.log")
    load = None
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        settings = BrokerSettings.from_url(info.amqp_url)
        with Management(info.management_url, info.user, info.password) as management:
            amqp_url = enroll(management, "clinic", "scanner", address=settings).amqp_url
        running.start()
        load = Load(connect(BrokerSettings.from_url(amqp_url), "clinic", "scanner"))
        wait_until(lambda: newest_step(root / "server") >= 20, "a checkpoint was there", PATIENCE_SECONDS)
        wait_until(lambda: len(load.receipted()) >= 40, "many batches were stored", PATIENCE_SECONDS)
        before, step = load.receipted(), newest_step(root / "server")
        made = collafuse_backup(
            "create", root / "backup", "--storage", root / "server",
            "--url", info.amqp_url, "--management-url", info.management_url,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        wait_until(lambda: len(load.receipted()) > len(before), "the server went on", PATIENCE_SECONDS)
        assert running.exits == []
    finally:
        if load is not None:
            load.stop()
            load.device.connection.stop()
        running.kill()
        local.kill()
    return Lost(root / "backup", before, step, amqp_url)


def test_a_lost_server_comes_back_with_every_sample_its_users_and_its_training(
    lost: Lost, tmp_path: Path
) -> None:
    local, info = started(tmp_path / "node")
    running = trainer(info, tmp_path / "server", tmp_path / "trainer.log")
    device = None
    try:
        back = collafuse_backup(
            "restore", lost.backup, "--storage", tmp_path / "server", "--json",
            "--url", info.amqp_url, "--management-url", info.management_url,
        )  # fmt: skip
        assert back.returncode == 0, back.stderr
        told = json.loads(back.stdout)
        assert (told["users"], told["aside"]) == (1, None)
        assert lost.before <= {
            entry.message_id for entry in SampleStore(Storage(tmp_path / "server")).entries()
        }
        assert newest_step(tmp_path / "server") >= lost.step

        running.start()
        host = BrokerSettings.from_url(info.amqp_url)
        known = BrokerSettings.from_url(lost.amqp_url)
        way = lost.amqp_url.replace(f":{known.port}/", f":{host.port}/")
        device = connect(BrokerSettings.from_url(way), "clinic", "scanner")
        new = device.send_samples(sample_batch(10**6))
        wait_until(
            lambda: any(receipt.batch_id == new for receipt in device.all_of(ReceiptV1)),
            "a device with its old password contributed",
            PATIENCE_SECONDS,
        )
        wait_until(
            lambda: newest_step(tmp_path / "server") > lost.step,
            "training went on from the checkpoint",
            PATIENCE_SECONDS,
        )
        assert "training_resumed" in (tmp_path / "trainer.log").read_text()
        with Management(info.management_url, info.user, info.password) as management:
            limits = management.user_limits()
            queues = {queue["name"] for queue in management.queues(host.vhost)}
        assert limits["clinic_scanner"] == {"max-connections": 8, "max-channels": 32}
        assert {queue.name for queue in FEDERATION.queues} | {"inbox.clinic_scanner"} <= queues
    finally:
        running.kill()
        if device is not None:
            device.connection.stop()
        local.kill()


def test_a_whole_backup_is_told_to_be_whole(lost: Lost) -> None:
    checked = collafuse_backup("check", lost.backup)

    assert checked.returncode == 0, checked.stderr
    assert "is whole" in checked.stdout
    assert lost.backup.stat().st_mode & 0o077 == 0, "it holds the hashes of passwords"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a segment": lambda backup: flip(next((backup / "storage" / "segments").iterdir())),
    "definitions": lambda backup: flip(backup / "definitions.json"),
    "a file is gone": lambda backup: next((backup / "storage" / "segments").iterdir()).unlink(),
    "the list of files": lambda backup: flip(backup / "backup.json"),
    "no list": lambda backup: (backup / "backup.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_before_anything_is_changed(
    lost: Lost, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(lost.backup, tmp_path / "backup")
    DAMAGES[damage](tmp_path / "backup")

    with pytest.raises(BackupDamaged):
        archive.check(tmp_path / "backup")
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "backup", Storage(tmp_path / "server"), None, force=True)

    assert not (tmp_path / "server").exists()


def test_a_backup_goes_where_nothing_is_and_a_restore_too(lost: Lost, tmp_path: Path) -> None:
    SampleStore(Storage(tmp_path / "server")).add(sample_batch(1), 64 * "a", "clinic", "d")
    arguments = ("restore", lost.backup, "--storage", tmp_path / "server", "--without-definitions")

    again = collafuse_backup("create", lost.backup, "--without-definitions", "--storage", tmp_path / "server")
    refused = collafuse_backup(*arguments)
    forced = collafuse_backup(*arguments, "--force", "--json")

    assert "exists already" in again.stderr
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert forced.returncode == 0, forced.stderr
    aside = Storage(tmp_path / "server" / json.loads(forced.stdout)["aside"])
    assert [entry.message_id for entry in SampleStore(aside).entries()] == [64 * "a"]
    assert lost.before <= {entry.message_id for entry in SampleStore(Storage(tmp_path / "server")).entries()}
