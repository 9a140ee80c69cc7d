"""The denoise worker: requests in, partially denoised samples out, one batching loop in between.

The loop runs in one thread and owns everything here; versions are read, and stuck steps noticed, in threads of their own.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from broker.consumer import Consumer
from monitoring.metrics import DenoiseMetrics
from server_worker.denoising.desk import RequestDesk
from server_worker.denoising.engine import Engine
from server_worker.denoising.scheduler import Group, Scheduler
from server_worker.denoising.version_follower import VersionFollower
from server_worker.denoising.warm_up import warm_up
from server_worker.denoising.watchdog import Watchdog
from server_worker.versions import Backbone

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.05
CONFIRM_SECONDS = 0.002
TAKEN_PER_TURN = 64
NO_VERSION_SECONDS = 0.2


class DenoiseWorker:
    """Serves denoise requests with the newest backbone version.

    scheduler, engine, desk: all three of the same requests.
    consumers: makes the consumers of `denoise` and `prefetch`, in this order, once there is a version to serve with.
    watchdog: told with every turn of the loop that it goes on.
    max_batch: samples of one network call, at most; None for what the warm-up finds best.
    drain_seconds: how long running requests may take after the stop.
    """

    def __init__(
        self,
        *,
        versions: VersionFollower,
        consumers: Callable[[], tuple[Consumer, Consumer]],
        scheduler: Scheduler,
        engine: Engine,
        desk: RequestDesk,
        metrics: DenoiseMetrics,
        watchdog: Watchdog,
        max_batch: int | None,
        drain_seconds: float,
    ) -> None:
        self._versions = versions
        self._make_consumers = consumers
        self._consumers: tuple[Consumer, ...] = ()
        self._scheduler = scheduler
        self._engine = engine
        self._desk = desk
        self._metrics = metrics
        self._watchdog = watchdog
        self._max_batch = max_batch
        self._drain_seconds = drain_seconds
        self._backbone: Backbone | None = None
        self._stepped_at: float | None = None
        self._version_told = metrics.backbone_version.labels(follow=versions.follow)
        self._step_seconds = metrics.denoise_step_seconds.labels(provider=engine.execution.device.type)
        self._draining = False

    def not_ready(self) -> str | None:
        """Why the worker takes no requests at the moment; None when it does. Called from any thread."""
        if self._draining:
            return "draining: it finishes what it has and takes nothing new"
        return None if self._consumers else "waiting for the first backbone version, or warming up for it"

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then finish what runs within the drain limit and give the rest back."""
        self._versions.start()
        self._watchdog.start()
        try:
            self._loop(stop)
            self._drain()
        finally:
            self._watchdog.stop()
            self._versions.stop()

    def _loop(self, stop: threading.Event) -> None:
        waiting_said = False
        while not stop.is_set():
            self._watchdog.beat()
            self._follow_versions(stop, NO_VERSION_SECONDS if self._backbone is None else 0.0)
            if self._backbone is not None:
                self._turn()
            elif not waiting_said:
                log.info("waiting_for_a_version")
                waiting_said = True

    def _follow_versions(self, stop: threading.Event, wait_seconds: float) -> None:
        """Serve new requests with a version that has been read meanwhile; those in hand finish on theirs."""
        newer = self._versions.take(wait_seconds)
        if newer is None:
            return
        runner = self._engine.install(newer)
        # A compiled network is warmed up whenever it is new, another one only to find the batch size at the start.
        if self._backbone is None or (self._engine.execution.sizes and not runner.is_warm):
            cost = warm_up(
                runner, self._engine.execution, self._max_batch, watchdog=self._watchdog, stop=stop.is_set
            )
            if cost is None:
                return
            max_batch = self._max_batch or cost.saturating_samples()
            self._scheduler.limits = replace(self._scheduler.limits, max_batch=max_batch, cost=cost)
        self._backbone = runner.backbone
        if not self._consumers:
            self._consumers = self._make_consumers()
        self._version_told.set(newer.number)
        log.info("version_served", version=newer.number, max_batch=self._scheduler.limits.max_batch)

    def _take(self, wait_seconds: float) -> None:
        """Take the deliveries that are there, so many at a time; wait so long for the first."""
        backbone = self._backbone
        if self._draining or backbone is None:
            return
        for consumer in self._consumers:
            for _ in range(TAKEN_PER_TURN):
                delivery = consumer.get(wait_seconds)
                wait_seconds = 0.0
                if delivery is None:
                    break
                self._desk.accept(delivery, backbone)

    def _turn(self) -> None:
        """One network call for whoever takes part in it; letters go out and come in while a GPU computes."""
        now = time.monotonic()
        self._desk.expire(now)
        groups = self._scheduler.select()
        if groups:
            self._desk.note_start(groups, now)
            self._step(groups)
        else:
            self._stepped_at = None
            self._desk.settle()
            self._take(CONFIRM_SECONDS if self._desk.awaits_confirms else IDLE_SECONDS)
        self._metrics.samples_running.set(self._scheduler.samples_begun)
        self._metrics.requests_waiting.set(self._scheduler.jobs_waiting)

    def _step(self, groups: Sequence[Group]) -> None:
        started = time.perf_counter()
        calls = self._engine.launch(groups)
        launched = time.perf_counter()
        self._desk.settle()
        self._take(0.0)
        self._engine.wait()
        ended = time.perf_counter() if self._engine.execution.asynchronous else launched
        self._observe(groups, calls, started, ended)
        finished = self._scheduler.advance()
        for group in finished:
            self._desk.send(group)
        if finished:
            self._desk.settle()

    def _observe(self, groups: Sequence[Group], calls: int, started: float, ended: float) -> None:
        if self._stepped_at is not None:
            self._metrics.denoise_idle_seconds.observe(started - self._stepped_at)
        self._stepped_at = ended
        self._metrics.network_calls_total.inc(calls)
        self._step_seconds.observe(ended - started)
        self._metrics.denoise_batch_samples.observe(sum(group.count for group in groups))
        self._desk.note_step(groups, ended - started)

    def _drain(self) -> None:
        """Take nothing new, finish what has begun and see it confirmed, give the rest back to the queue."""
        self._draining = True
        for consumer in self._consumers:
            consumer.pause()
        self._desk.give_back_untouched()
        deadline = time.monotonic() + self._drain_seconds
        log.info("draining", requests=self._desk.requests, limit_seconds=self._drain_seconds)
        while self._desk.requests and time.monotonic() < deadline:
            self._watchdog.beat()
            self._turn()
            if self._scheduler.idle:
                threading.Event().wait(0.01)
        self._desk.give_back_all()
        for consumer in self._consumers:
            consumer.close()
        log.info("drained")
