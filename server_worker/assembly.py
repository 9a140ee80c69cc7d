"""Builds the parts of a worker process from its settings, and runs it; the only caller is the room's `cli.py`."""

import threading

import structlog
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.consumer import Consumer
from broker.topology import QUEUE_DENOISE, QUEUE_PREFETCH, QUEUE_SAMPLES
from diffusion.schedule import NoiseSchedule
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, MetricsServer, TrainMetrics, serve
from server_worker.compute import choose_device
from server_worker.denoising.engine import Engine
from server_worker.denoising.replies import WINDOW, WINDOW_BYTES, Replies
from server_worker.denoising.scheduler import Limits, Scheduler
from server_worker.denoising.version_follower import VersionFollower
from server_worker.denoising.worker import DenoiseWorker
from server_worker.samples.contract import Contract, keep_contract
from server_worker.samples.ingest import RECEIPTS_IN_FLIGHT, Ingest
from server_worker.samples.store import SampleStore
from server_worker.settings import DenoiseSettings, TrainSettings, WorkerSettings
from server_worker.storage import Storage
from server_worker.training.trainer import Trainer
from server_worker.training.worker import TrainWorker, network_config, train_plan

log = structlog.get_logger(__name__)


def run_train(settings: TrainSettings, stop: threading.Event) -> None:
    """Be a train worker until `stop` is set, or the budget is spent and the settings say to exit then."""
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


def run_denoise(settings: DenoiseSettings, stop: threading.Event) -> None:
    """Be a denoise worker until `stop` is set."""
    device = choose_device(settings.device, settings.threads)
    registry = CollectorRegistry()
    metrics = DenoiseMetrics(registry)
    server = _serve(registry, settings)
    try:
        with Connection(settings.broker(), name="denoise", metrics=BrokerMetrics(registry)) as connection:
            replies = Replies(connection.publisher(window=WINDOW, window_bytes=WINDOW_BYTES))
            connection.wait_connected(settings.connect_timeout_seconds)

            def consumers() -> tuple[Consumer, Consumer]:
                in_hand = settings.requests_in_hand
                return connection.consumer(QUEUE_DENOISE, in_hand), connection.consumer(
                    QUEUE_PREFETCH, in_hand
                )

            worker = DenoiseWorker(
                versions=VersionFollower(
                    Storage(settings.storage),
                    device,
                    poll_seconds=settings.poll_seconds,
                    metrics=metrics,
                    follow=settings.follow,
                ),
                consumers=consumers,
                scheduler=Scheduler(Limits(settings.max_batch, settings.prefetch_share)),
                engine=Engine(device, settings.precision),
                replies=replies,
                metrics=metrics,
                part_bytes=settings.part_bytes,
                drain_seconds=settings.drain_seconds,
            )
            worker.run(stop)
    finally:
        server.close()


def _serve(registry: CollectorRegistry, settings: WorkerSettings) -> MetricsServer:
    """Answer /metrics, and say on which port."""
    server = serve(registry, settings.metrics_port, settings.metrics_address, settings.metrics_port_file)
    log.info("metrics_listening", address=server.address, port=server.port)
    return server
