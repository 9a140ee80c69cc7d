"""Samples that a wrongly set up server refused are put back, and stored under the device that sent them."""

import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from broker.cli import app
from broker.connection import Connection
from broker.contract.receipts import ReceiptV1
from broker.settings import BrokerSettings
from broker.topology import QUEUE_DEAD, QUEUE_SAMPLES
from diffusion.schedule import NoiseSchedule
from monitoring.metrics import BrokerMetrics, TrainMetrics
from server_worker.samples.contract import Contract
from server_worker.samples.ingest import RECEIPTS_IN_FLIGHT, Ingest
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS, wait_until
from tests.server_worker.backbones import CONTRACT, T, sample_batch
from tests.server_worker.devices import Device


@contextlib.contextmanager
def taking(settings: BrokerSettings, contract: Contract, root: Path) -> Iterator[SampleStore]:
    """A server that takes samples in, as far as they keep to `contract`."""
    connection = Connection(settings, name="test-ingest", metrics=BrokerMetrics(CollectorRegistry()))
    storage = Storage(root)
    store = SampleStore(storage)
    ingest = Ingest(
        contract,
        storage,
        store,
        consumer=connection.consumer(QUEUE_SAMPLES, 4),
        publisher=connection.publisher(window=RECEIPTS_IN_FLIGHT),
        metrics=TrainMetrics(CollectorRegistry()),
        messages_in_hand=4,
    )
    stop = threading.Event()
    thread = threading.Thread(target=ingest.run, args=(stop,))
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    thread.start()
    try:
        yield store
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)
        connection.stop()


def dead(settings: BrokerSettings, *words: str) -> str:
    """`collafuse broker dead …`."""
    arguments = ["dead", *words, "--url", settings.url.get_secret_value()]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_replayed_samples_are_stored_under_who_sent_them(
    server_settings: BrokerSettings,
    device: Callable[..., Device],
    queue_depth: Callable[[str], int],
    tmp_path: Path,
) -> None:
    senders = [device("clinic-a"), device("clinic-b")]
    wrong = dataclasses.replace(CONTRACT, schedule=NoiseSchedule.cosine(T))
    with taking(server_settings, wrong, tmp_path / "wrong") as store:
        ids = {sender.send_samples(sample_batch(seed)): sender for seed, sender in enumerate(senders)}
        wait_until(lambda: queue_depth(QUEUE_DEAD) == 2, "both batches were set aside")
        assert store.samples == 0
    listed = json.loads(dead(server_settings, "list", "--reason", "schedule_mismatch", "--json"))
    assert {letter["message_id"]: letter["sender"] for letter in listed["letters"]} == {
        batch_id: sender.user for batch_id, sender in ids.items()
    }

    with taking(server_settings, CONTRACT, tmp_path / "right") as store:
        dead(server_settings, "replay", "--all")
        wait_until(lambda: store.samples == 8, "both batches were stored")
        stored = {entry.message_id: f"{entry.client}_{entry.device}" for entry in store.entries()}
        assert stored == {batch_id: sender.user for batch_id, sender in ids.items()}
        for batch_id, sender in ids.items():
            wait_until(lambda sender=sender: bool(sender.all_of(ReceiptV1)), "its receipt came")  # type: ignore[misc]
            assert [receipt.batch_id for receipt in sender.all_of(ReceiptV1)] == [batch_id]
    assert queue_depth(QUEUE_DEAD) == 0
