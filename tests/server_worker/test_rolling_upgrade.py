"""Workers are replaced one by one while requests and samples come in: every request is answered, every batch is stored once."""

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.receipts import ReceiptV1
from broker.depth import depth
from broker.settings import BrokerSettings
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.conftest import wait_until
from tests.server_worker.backbones import CLASSES, SCHEDULE, T, publish_backbone, sample_batch
from tests.server_worker.conftest import Worker
from tests.server_worker.denoising.test_denoising import LONG_PLAN, request
from tests.server_worker.devices import Device

PATIENCE_SECONDS = 120.0
LOAD_PAUSE_SECONDS = 0.05
UNDER_WAY = 12
TRAIN = (
    *("--schedule", SCHEDULE.name, "--schedule-steps", str(T), "--channels", "1", "--image-size", "8"),
    *("--num-classes", str(CLASSES), "--cut-min", "0.2", "--cut-max", "0.8", "--base-channels", "8"),
    *("--channel-multipliers", "1,2", "--min-samples", "1000000"),
)
OF_BEFORE = """
from broker.contract.types import MESSAGE_TYPES
MESSAGE_TYPES["samples.v0"] = MESSAGE_TYPES.pop("samples.v1")
from collafuse.cli import main
main()
"""
"""A worker from before `samples.v1`: that message is of a version that it does not know."""


@dataclass(eq=False)
class Load:
    """A device that sends batches and asks for samples, in a thread of its own, and has so many of each under way at a time."""

    device: Device
    requests: dict[str, DenoiseV1] = field(default_factory=dict)
    batches: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    receipted: set[str] = field(default_factory=set)
    failed: list[FailedV1] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._samples: dict[str, set[int]] = {}
        self._heard = 0
        self._sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(LOAD_PAUSE_SECONDS):
            self.listen()
            self._sent += 1
            if len(self.batches) - len(self.receipted) < UNDER_WAY:
                self.batches.add(self.device.send_samples(sample_batch(self._sent)))
            if len(self.requests) - len(self.answered) < UNDER_WAY:
                plan = LONG_PLAN if self._sent % 4 == 0 else (T, 60, 20)
                asked = request(n=1 + self._sent % 3, plan=plan, seed=self._sent)
                self.requests[asked.request_id] = asked
                self.device.ask(asked)

    def listen(self) -> None:
        """Take in what has come."""
        self.device.look()
        for message in self.device.received[self._heard :]:
            self._heard += 1
            if isinstance(message, ReceiptV1):
                self.receipted.add(message.batch_id)
            elif isinstance(message, FailedV1):
                self.failed.append(message)
            elif isinstance(message, LatentsV1):
                whole = range(message.first, message.first + len(message.x))
                there = self._samples.setdefault(message.request_id, set())
                there.update(whole)
                if there == set(range(self.requests[message.request_id].n)):
                    self.answered.add(message.request_id)

    def stop(self) -> None:
        """Send no more; from now on whoever calls `listen` hears."""
        self._stop.set()
        self._thread.join()

    @property
    def is_settled(self) -> bool:
        """Whether every request was answered and every batch receipted."""
        self.listen()
        return self.answered == self.requests.keys() and self.receipted == self.batches


def waiting(settings: BrokerSettings, queue: str) -> int:
    found = depth(settings, queue)
    assert found is not None
    return found.messages


def stop(worker: Worker) -> None:
    """As a service manager does."""
    worker.process.terminate()
    assert worker.end(PATIENCE_SECONDS) == 0, worker.log_path.read_text()


def test_nothing_is_lost_and_nothing_doubled_while_every_worker_is_replaced(
    worker: Callable[..., Worker],
    device: Callable[..., Device],
    server_settings: BrokerSettings,
    tmp_path: Path,
) -> None:
    storage = Storage(tmp_path / "server")
    publish_backbone(storage)

    def denoiser() -> Worker:
        return worker("denoise", "--storage", storage.url, "--max-batch", "4", "--requests-in-hand", "4")

    def trainer() -> Worker:
        return worker("train", "--storage", storage.url, *TRAIN)

    first = [denoiser(), denoiser()]
    training = trainer()
    for one in first:
        one.wait_for("warmed_up", PATIENCE_SECONDS)
    load = Load(device())
    try:
        wait_until(lambda: bool(load.answered and load.receipted), "all were at work", PATIENCE_SECONDS)
        for new in [denoiser(), denoiser()]:  # beside the old ones; both at once, for the time it takes
            new.wait_for("warmed_up", PATIENCE_SECONDS)
        for one in first:
            stop(one)
            more = partial(lambda before: len(load.answered) > before, len(load.answered))
            wait_until(more, "requests were answered on", PATIENCE_SECONDS)
        stop(training)  # two trainers at a time are ranks, and are told of each other
        training = trainer()
        receipted = len(load.receipted)
        wait_until(lambda: len(load.receipted) > receipted, "batches were stored on", PATIENCE_SECONDS)
    finally:
        load.stop()

    wait_until(lambda: load.is_settled, "every request was answered, every batch receipted", PATIENCE_SECONDS)
    store = SampleStore(storage)
    assert {entry.message_id for entry in store.entries()} == load.batches
    assert store.copies == 0
    assert load.failed == []
    assert waiting(server_settings, "dead") == 0
    assert waiting(server_settings, "denoise") == 0


def test_what_an_older_worker_does_not_know_is_set_aside_and_stored_once_after_the_upgrade(
    worker: Callable[..., Worker],
    device: Callable[..., Device],
    server_settings: BrokerSettings,
    tmp_path: Path,
) -> None:
    storage = Storage(tmp_path / "server")
    url = server_settings.url.get_secret_value()
    arguments = ("train", "--storage", storage.url, *TRAIN)
    with (tmp_path / "old.log").open("wb") as log:
        old = subprocess.Popen(
            [sys.executable, "-c", OF_BEFORE, "worker", *arguments, "--broker-url", url, "--device", "cpu"],
            stdout=log,
            stderr=log,
        )
    try:
        sender = device()
        sent = [sender.send_samples(sample_batch(seed)) for seed in range(3)]
        wait_until(
            lambda: waiting(server_settings, "dead") == 3,
            "the old worker set all of them aside",
            PATIENCE_SECONDS,
        )
    finally:
        old.terminate()
        assert old.wait(PATIENCE_SECONDS) == 0, (tmp_path / "old.log").read_text()
    assert '"unknown_version"' in (tmp_path / "old.log").read_text()
    worker(*arguments)

    replayed = subprocess.run(
        [sys.executable, "-m", "collafuse", "broker", "dead", "replay", "--all", "--reason", "unknown_version",
         "--url", url],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip

    assert replayed.returncode == 0, replayed.stderr
    wait_until(
        lambda: {receipt.batch_id for receipt in sender.all_of(ReceiptV1)} == set(sent),
        "the new worker stored them",
        PATIENCE_SECONDS,
    )
    assert [entry.message_id for entry in SampleStore(storage).entries()] == sorted(sent)
    assert waiting(server_settings, "dead") == 0
