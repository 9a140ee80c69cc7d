"""`collafuse worker`: train the backbone, denoise for devices, look into the sample store.

torch is imported inside the commands, so that `--help` answers at once.
"""

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.consumer import Consumer
from broker.topology import QUEUE_DENOISE, QUEUE_PREFETCH, QUEUE_SAMPLES
from monitoring import logs
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, MetricsServer, TrainMetrics, serve
from server_worker.errors import StorageUnusable
from server_worker.options import options_of
from server_worker.settings import DenoiseSettings, TrainSettings, WorkerSettings

if TYPE_CHECKING:
    from server_worker.sample_store import SampleStore

log = structlog.get_logger(__name__)

app = typer.Typer(
    help="Train the backbone, denoise for devices, look into the sample store.", no_args_is_help=True
)

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file of the settings below.")]


@app.command()
@options_of(TrainSettings)
def train(config: Config = None, **flags: Any) -> None:
    """Take released samples in, train the backbone on them, and publish its versions."""
    settings = TrainSettings.load(config, **flags)
    logs.configure("train")
    _run_train(settings, _stop_on_signals())


@app.command()
@options_of(DenoiseSettings)
def denoise(config: Config = None, **flags: Any) -> None:
    """Run the server's half of the chain for whoever asks, continuously batched."""
    settings = DenoiseSettings.load(config, **flags)
    logs.configure("denoise")
    _run_denoise(settings, _stop_on_signals())


@app.command()
def samples(
    storage: Annotated[
        str, typer.Option(help="The directory or URL that the train worker writes to.")
    ] = ".collafuse/server",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the sample store holds, by client, device and cut."""
    from server_worker.sample_store import SampleStore
    from server_worker.storage import Storage

    logs.configure("samples", level="warning")
    place = Storage(storage)
    if not place.exists(""):
        raise StorageUnusable(f"there is no storage at {storage}: check --storage")
    summary = _summary(SampleStore(place, quarantine=False))
    if as_json:
        print(json.dumps(summary))
    else:
        _print_summary(summary)


def _run_train(settings: TrainSettings, stop: threading.Event) -> None:
    from diffusion.schedule import NoiseSchedule
    from server_worker.compute import choose_device
    from server_worker.contract import Contract, keep_contract
    from server_worker.ingest import RECEIPTS_IN_FLIGHT, Ingest
    from server_worker.sample_store import SampleStore
    from server_worker.storage import Storage
    from server_worker.train import TrainWorker, network_config, train_plan
    from server_worker.trainer import Trainer

    schedule = NoiseSchedule.named(settings.schedule, settings.schedule_steps)
    contract = Contract(schedule, settings.shape, settings.num_classes, settings.cut_min, settings.cut_max)
    trainer = Trainer(
        network_config(settings),
        schedule,
        train_plan(settings),
        choose_device(settings.device, settings.threads),
    )
    storage = Storage(settings.storage)
    storage.check_writable()
    keep_contract(storage, contract)
    storage.sweep()
    store = SampleStore(storage, cache_bytes=settings.cache_bytes)
    registry = CollectorRegistry()
    metrics = TrainMetrics(registry)
    server = _serve(registry, settings)
    try:
        with Connection(settings.broker(), name="train", metrics=BrokerMetrics(registry)) as connection:
            publisher = connection.publisher(window=RECEIPTS_IN_FLIGHT + 2)
            consumer = connection.consumer(QUEUE_SAMPLES, settings.ingest_prefetch)
            connection.wait_connected(settings.connect_timeout_seconds)
            ingest = Ingest(
                contract,
                storage,
                store,
                consumer=consumer,
                publisher=publisher,
                metrics=metrics,
                messages_in_hand=settings.ingest_prefetch,
            )
            worker = TrainWorker(
                settings,
                contract,
                storage,
                store=store,
                trainer=trainer,
                ingest=ingest,
                publisher=publisher,
                metrics=metrics,
            )
            worker.run(stop)
    finally:
        server.close()


def _run_denoise(settings: DenoiseSettings, stop: threading.Event) -> None:
    from server_worker.compute import choose_device
    from server_worker.denoise import DenoiseWorker
    from server_worker.engine import Engine
    from server_worker.replies import WINDOW, Replies
    from server_worker.scheduler import Limits, Scheduler
    from server_worker.storage import Storage

    device = choose_device(settings.device, settings.threads)
    registry = CollectorRegistry()
    server = _serve(registry, settings)
    try:
        with Connection(settings.broker(), name="denoise", metrics=BrokerMetrics(registry)) as connection:
            replies = Replies(connection.publisher(window=WINDOW))
            connection.wait_connected(settings.connect_timeout_seconds)

            def consumers() -> tuple[Consumer, Consumer]:
                in_hand = settings.requests_in_hand
                return connection.consumer(QUEUE_DENOISE, in_hand), connection.consumer(
                    QUEUE_PREFETCH, in_hand
                )

            worker = DenoiseWorker(
                Storage(settings.storage),
                device,
                consumers=consumers,
                scheduler=Scheduler(Limits(settings.max_batch, settings.prefetch_share)),
                engine=Engine(device, settings.precision),
                replies=replies,
                metrics=DenoiseMetrics(registry),
                part_bytes=settings.part_bytes,
                poll_seconds=settings.poll_seconds,
                drain_seconds=settings.drain_seconds,
            )
            worker.run(stop)
    finally:
        server.close()


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the worker then ends in order, with exit code 0."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _serve(registry: CollectorRegistry, settings: WorkerSettings) -> MetricsServer:
    """Answer /metrics, and say on which port."""
    server = serve(registry, settings.metrics_port, settings.metrics_address)
    log.info("metrics_listening", address=server.address, port=server.port)
    if settings.metrics_port_file is not None:
        part = settings.metrics_port_file.with_name(settings.metrics_port_file.name + ".part")
        try:
            part.write_text(json.dumps({"port": server.port}))
            part.replace(settings.metrics_port_file)
        except OSError as error:
            server.close()
            raise StorageUnusable(
                f"cannot write the metrics port to {settings.metrics_port_file}: {error.strerror}"
            ) from error
    return server


def _summary(store: "SampleStore") -> dict[str, Any]:
    groups: dict[tuple[str, str, int], dict[str, Any]] = {}
    labels: dict[tuple[str, str, int], Counter[int]] = {}
    for entry in store.entries():
        key = (entry.client, entry.device, entry.t_cut)
        row = groups.setdefault(
            key, {"client": key[0], "device": key[1], "t_cut": key[2], "batches": 0, "samples": 0, "bytes": 0}
        )
        row["batches"] += 1
        row["samples"] += entry.samples
        row["bytes"] += entry.size_bytes
        labels.setdefault(key, Counter()).update(label for label in entry.labels if label >= 0)
    for key, row in groups.items():
        row["labels"] = {str(label): count for label, count in sorted(labels[key].items())}
    return {
        "samples": store.samples,
        "bytes": store.size_bytes,
        "groups": [groups[key] for key in sorted(groups)],
        "quarantined": [
            {"batch": batch, "reason": reason} for batch, reason in sorted(store.quarantined.items())
        ],
    }


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['samples']} samples, {summary['bytes'] / 1e6:.1f} MB")
    for name in ("client", "device", "cut t_c", "batches", "samples", "MB", "labels"):
        table.add_column(name, justify="left" if name in ("client", "device", "labels") else "right")
    for row in summary["groups"]:
        numbers = (row["t_cut"], row["batches"], row["samples"], f"{row['bytes'] / 1e6:.1f}")
        shown = " ".join(f"{label}:{count}" for label, count in row["labels"].items()) or "none"
        table.add_row(row["client"], row["device"], *map(str, numbers), shown)
    console = Console()
    console.print(table)
    for damaged in summary["quarantined"]:
        console.print(f"damaged: {damaged['batch']}: {damaged['reason']}", style="red")
