"""Builds the parts of a worker process from its settings, and runs it; the only caller is the room's `cli.py`."""

import os
import threading
from contextlib import closing

import structlog
import torch
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.consumer import Consumer
from broker.topology import QUEUE_DENOISE, QUEUE_PREFETCH, QUEUE_SAMPLES
from diffusion.network import UNet
from diffusion.schedule import NoiseSchedule
from monitoring.endpoints import Endpoints, Probe, nothing_wrong, serve
from monitoring.gpus import watch_gpus
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, TrainMetrics
from server_worker.compute import check_compiler, choose_device
from server_worker.denoising.desk import RequestDesk
from server_worker.denoising.engine import Engine
from server_worker.denoising.replies import WINDOW, WINDOW_BYTES, Replies
from server_worker.denoising.runner import Execution
from server_worker.denoising.scheduler import Limits, Scheduler
from server_worker.denoising.step_cost import batch_sizes
from server_worker.denoising.version_follower import VersionFollower
from server_worker.denoising.warm_up import LARGEST_BATCH
from server_worker.denoising.watchdog import Watchdog
from server_worker.denoising.worker import DenoiseWorker
from server_worker.errors import DeviceUnavailable
from server_worker.samples.contract import Contract, keep_contract
from server_worker.samples.ingest import RECEIPTS_IN_FLIGHT, Ingest
from server_worker.samples.limits import StoreLimits
from server_worker.samples.store import SampleStore
from server_worker.settings import DenoiseSettings, TrainSettings, WorkerSettings, check_batch
from server_worker.storage import Storage
from server_worker.training.announcer import Announcer
from server_worker.training.keeping import Keeping
from server_worker.training.parent import is_rank
from server_worker.training.plan import network_config, train_plan
from server_worker.training.publishing import Publishing
from server_worker.training.ranks import Ranks, join, local_rank, own_gpu
from server_worker.training.trainer import Trainer
from server_worker.training.worker import TrainWorker

log = structlog.get_logger(__name__)


def run_train(settings: TrainSettings, stop: threading.Event) -> None:
    """Be a train worker, or one of its ranks, until `stop` is set, or the budget is spent and the settings say to exit then."""
    device = own_gpu(choose_device(settings.device, _threads(settings)))
    storage = prepare_training(settings)
    registry = CollectorRegistry()
    metrics = TrainMetrics(registry)
    watch_gpus(registry)
    ranks = join(device)
    check_batch(settings, ranks.size)
    with Connection(
        settings.broker(), name=f"train-{ranks.rank}", metrics=BrokerMetrics(registry)
    ) as connection:
        worker = _train_worker(settings, storage, connection, metrics, device, ranks)

        def not_ready() -> str | None:
            return None if connection.connected else "no connection to the broker"

        with closing(_serve(registry, _of_this_rank(settings), live=worker.not_live, ready=not_ready)):
            connection.wait_connected(settings.connect_timeout_seconds)
            worker.run(stop)
    ranks.leave()


def prepare_training(settings: TrainSettings) -> Storage:
    """The storage, checked and swept. Raises StorageUnusable, or ContractMismatch when it is another federation's."""
    storage = Storage(settings.storage)
    storage.check_writable()
    keep_contract(storage, _contract(settings))
    storage.sweep()
    return storage


def check_ranks(settings: TrainSettings) -> None:
    """Find out once what would be wrong in every rank, before any is started.

    Raises as `prepare_training`, DeviceUnavailable for too few GPUs, DiffusionError for a network that cannot be, and
    BrokerUnreachable.
    """
    device = choose_device(settings.device, settings.threads)
    if device.type == "cuda" and torch.cuda.device_count() < settings.ranks:
        raise DeviceUnavailable(
            f"{settings.ranks} ranks need a GPU each, this machine has {torch.cuda.device_count()}: start fewer ranks"
        )
    with torch.device("meta"):
        UNet(network_config(settings))
    prepare_training(settings)
    metrics = BrokerMetrics(CollectorRegistry())
    with Connection(settings.broker(), name="train-check", metrics=metrics) as connection:
        connection.wait_connected(settings.connect_timeout_seconds)


def _contract(settings: TrainSettings) -> Contract:
    schedule = NoiseSchedule.named(settings.schedule, settings.schedule_steps)
    return Contract(schedule, settings.shape, settings.num_classes, settings.cut_min, settings.cut_max)


def _train_worker(
    settings: TrainSettings,
    storage: Storage,
    connection: Connection,
    metrics: TrainMetrics,
    device: torch.device,
    ranks: Ranks,
) -> TrainWorker:
    contract = _contract(settings)
    trainer = Trainer(network_config(settings), contract.schedule, train_plan(settings), device, ranks)
    store = SampleStore(
        storage,
        cache_bytes=settings.cache_bytes,
        held_out_share=settings.held_out_share,
        limits=StoreLimits(settings.store_max_bytes, settings.client_max_bytes, settings.retention_days),
    )
    publisher = connection.publisher(window=RECEIPTS_IN_FLIGHT + 2)
    consumer = connection.consumer(QUEUE_SAMPLES, settings.ingest_prefetch)
    ingest = Ingest(
        contract,
        storage,
        store,
        consumer=consumer,
        publisher=publisher,
        metrics=metrics,
        messages_in_hand=settings.ingest_prefetch,
        maintains=ranks.leads,
    )
    announcer = publishing = None
    if ranks.leads:
        announcer = Announcer(settings, contract, storage, store, publisher)
        publishing = Publishing(
            contract, storage, store, trainer, metrics, versions_kept=settings.versions_kept
        )
    return TrainWorker(
        settings,
        store=store,
        trainer=trainer,
        ingest=ingest,
        metrics=metrics,
        ranks=ranks,
        announcer=announcer,
        keeping=Keeping(settings, storage, trainer, metrics, ranks, publishing),
    )


def _threads(settings: TrainSettings) -> int | None:
    """Ranks on one machine share its cores, unless told otherwise."""
    if settings.threads is not None or not is_rank():
        return settings.threads
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _of_this_rank(settings: TrainSettings) -> TrainSettings:
    """Each rank of a machine answers /metrics on a port of its own, and names it in a file of its own."""
    number = local_rank()
    if number == 0:
        return settings
    path = settings.metrics_port_file
    return settings.model_copy(
        update={
            "metrics_port": settings.metrics_port + number if settings.metrics_port else 0,
            "metrics_port_file": None if path is None else path.with_name(f"{path.name}.rank{number}"),
        }
    )


def run_denoise(settings: DenoiseSettings, stop: threading.Event) -> None:
    """Be a denoise worker until `stop` is set."""
    device = choose_device(settings.device, settings.threads)
    if settings.compile:
        check_compiler()
    registry = CollectorRegistry()
    metrics = DenoiseMetrics(registry)
    watch_gpus(registry)
    watchdog = Watchdog(settings.step_limit_seconds)
    with Connection(settings.broker(), name="denoise", metrics=BrokerMetrics(registry)) as connection:
        worker = _denoise_worker(settings, connection, device, metrics, watchdog)

        def not_live() -> str | None:
            return "the loop does not turn: a step is stuck" if watchdog.is_late else None

        def not_ready() -> str | None:
            return worker.not_ready() if connection.connected else "no connection to the broker"

        with closing(_serve(registry, settings, live=not_live, ready=not_ready)):
            connection.wait_connected(settings.connect_timeout_seconds)
            worker.run(stop)


def _denoise_worker(
    settings: DenoiseSettings,
    connection: Connection,
    device: torch.device,
    metrics: DenoiseMetrics,
    watchdog: Watchdog,
) -> DenoiseWorker:
    largest = settings.max_batch or LARGEST_BATCH[device.type]

    def consumers() -> tuple[Consumer, Consumer]:
        in_hand = settings.requests_in_hand
        return connection.consumer(QUEUE_DENOISE, in_hand), connection.consumer(QUEUE_PREFETCH, in_hand)

    scheduler = Scheduler(Limits(largest, settings.prefetch_share, settings.interactive_slowdown))
    engine = Engine(Execution(device, settings.precision, batch_sizes(largest) if settings.compile else ()))
    replies = Replies(connection.publisher(window=WINDOW, window_bytes=WINDOW_BYTES))
    return DenoiseWorker(
        versions=VersionFollower(
            Storage(settings.storage), device, poll_seconds=settings.poll_seconds, follow=settings.follow
        ),
        consumers=consumers,
        scheduler=scheduler,
        engine=engine,
        desk=RequestDesk(scheduler, engine, replies, metrics, settings.part_bytes),
        metrics=metrics,
        watchdog=watchdog,
        max_batch=settings.max_batch,
        drain_seconds=settings.drain_seconds,
    )


def _serve(
    registry: CollectorRegistry,
    settings: WorkerSettings,
    *,
    live: Probe = nothing_wrong,
    ready: Probe = nothing_wrong,
) -> Endpoints:
    """Answer /metrics and the probes, and say on which port."""
    server = serve(
        registry,
        settings.metrics_port,
        settings.metrics_address,
        settings.metrics_port_file,
        live=live,
        ready=ready,
    )
    log.info("metrics_listening", address=server.address, port=server.port)
    return server
