"""The denoise worker: requests in, partially denoised samples out, one batching loop in between.

The loop runs in one thread and owns everything here. A request is acknowledged when the broker has confirmed every part of its
answer, so a worker may die at any moment: the request goes to another, which computes the same.
"""

import threading
import time
from collections.abc import Callable

import structlog
from structlog.contextvars import bound_contextvars

from broker.consumer import Consumer
from broker.delivery import Delivery, expect_user
from broker.errors import InvalidName, Refused, Unroutable
from broker.messages import DenoiseV1, FailedV1, LatentsV1
from broker.names import user_name
from broker.publisher import outgoing
from broker.topology import EXCHANGE_DOWN, device_key
from diffusion.errors import PlanError
from monitoring.metrics import DenoiseMetrics
from server_worker.denoising.answer import Answer
from server_worker.denoising.engine import Engine, prepare
from server_worker.denoising.in_hand import InHand
from server_worker.denoising.replies import Outcome, Replies
from server_worker.denoising.scheduler import Group, Job, Scheduler
from server_worker.denoising.version_follower import VersionFollower
from server_worker.errors import CannotServe
from server_worker.versions import Backbone

log = structlog.get_logger(__name__)

IDLE_SECONDS = 0.05
NO_VERSION_SECONDS = 0.2
DETAIL_CHARACTERS = 500


class DenoiseWorker:
    """Serves denoise requests with the newest backbone version.

    consumers: makes the consumers of `denoise` and `prefetch`, in this order, once there is a version to serve with.
    part_bytes: bound of one part of an answer; drain_seconds: how long running requests may take after the stop.
    """

    def __init__(
        self,
        *,
        versions: VersionFollower,
        consumers: Callable[[], tuple[Consumer, Consumer]],
        scheduler: Scheduler,
        engine: Engine,
        replies: Replies,
        metrics: DenoiseMetrics,
        part_bytes: int,
        drain_seconds: float,
    ) -> None:
        self._versions = versions
        self._make_consumers = consumers
        self._consumers: tuple[Consumer, ...] = ()
        self._scheduler = scheduler
        self._engine = engine
        self._replies = replies
        self._metrics = metrics
        self._part_bytes = part_bytes
        self._drain_seconds = drain_seconds
        self._in_hand: dict[str, InHand] = {}

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then finish what runs within the drain limit and give the rest back."""
        waiting_said = False
        while not stop.is_set():
            backbone = self._versions.newest(time.monotonic())
            if backbone is None:
                if not waiting_said:
                    log.info("waiting_for_a_version")
                    waiting_said = True
                stop.wait(NO_VERSION_SECONDS)
                continue
            if not self._consumers:
                self._consumers = self._make_consumers()
            self._take(backbone)
            self._turn()
        self._drain()

    # -- requests in --------------------------------------------------------------------------------------------------

    def _take(self, backbone: Backbone) -> None:
        """Take all deliveries that are there; wait a moment for one when there is nothing else to do."""
        wait_seconds = IDLE_SECONDS if self._scheduler.idle else 0.0
        for consumer in self._consumers:
            while (delivery := consumer.get(wait_seconds)) is not None:
                wait_seconds = 0.0
                self._accept(delivery, backbone)
            wait_seconds = 0.0

    def _accept(self, delivery: Delivery, backbone: Backbone) -> None:
        try:
            client, user = _sender(delivery)
            request = _request(delivery)
        except Refused as refusal:
            delivery.refuse(refusal.reason, refusal.detail)
            self._metrics.requests_total.labels(outcome="refused").inc()
            return
        with bound_contextvars(request_id=request.request_id):
            self._accept_request(delivery, client, user, request, backbone)

    def _accept_request(
        self, delivery: Delivery, client: str, user: str, request: DenoiseV1, backbone: Backbone
    ) -> None:
        key = f"{user}/{request.request_id}"
        known = self._in_hand.get(key)
        if known is not None:
            self._adopt(known, delivery, request)
            return
        held = InHand(key, user, delivery, request, time.monotonic())
        self._in_hand[key] = held
        if delivery.is_last:
            # It has outlived workers enough. The last delivery is for telling the device, which would wait for ever.
            self._fail(
                held,
                "delivered_too_often",
                f"given up after {delivery.delivery_count} attempts",
                dead_letter=True,
            )
            return
        try:
            chain = prepare(request, backbone)
        except (CannotServe, PlanError) as error:
            reason = error.reason if isinstance(error, CannotServe) else "bad_plan"
            self._fail(held, reason, str(error), dead_letter=True)
            return
        held.answer = Answer(request, backbone.number, self._part_bytes)
        self._engine.accept(key, chain)
        # What waits in the queue for too long is expired by the broker; from here on our own clock counts. The device's wall
        # clock, which may be wrong, decides nothing.
        deadline = None if request.ttl_seconds is None else held.taken_seconds + request.ttl_seconds
        self._scheduler.add(
            Job(key, client, request.n, len(request.plan) - 1, request.priority, held.taken_seconds, deadline)
        )
        log.info(
            "request_taken",
            user=user,
            samples=request.n,
            evaluations=len(request.plan) - 1,
            version=backbone.number,
        )

    def _adopt(self, known: InHand, delivery: Delivery, request: DenoiseV1) -> None:
        """A request that is in hand came again: its last delivery is the one to end, the work goes on."""
        if known.request != request:
            delivery.refuse("conflicting_request", "another request with this id is in hand")
            return
        known.delivery.ack()
        known.delivery = delivery
        log.info("request_redelivered", user=known.user)

    # -- one turn of the loop -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        for key in self._scheduler.expired(now):
            self._scheduler.drop([key])
            held = self._in_hand[key]
            ttl = held.request.ttl_seconds
            self._fail(
                held, "expired", f"not started within its time to live of {ttl:g} s", dead_letter=False
            )
        for group in self._scheduler.admit():
            self._engine.begin(group)
            self._started(group, now)
        self._step()
        self._settle()
        self._metrics.samples_running.set(self._scheduler.samples_running)
        self._metrics.requests_waiting.set(self._scheduler.jobs_waiting)

    def _started(self, group: Group, now: float) -> None:
        held = self._in_hand[group.key]
        if held.started_seconds is None:
            held.started_seconds = now

    def _step(self) -> None:
        running = self._scheduler.running
        if not running:
            return
        started = time.perf_counter()
        calls = self._engine.step(running)
        seconds = time.perf_counter() - started
        self._metrics.network_calls_total.inc(calls)
        self._metrics.denoise_step_seconds.observe(seconds)
        self._metrics.denoise_batch_samples.observe(sum(group.count for group in running))
        for key in {group.key for group in running}:
            held = self._in_hand[key]
            held.steps += 1
            held.steps_seconds += seconds
        for group in self._scheduler.advance():
            held = self._in_hand[group.key]
            if held.answer is not None:
                held.answer.put(group.first, self._engine.finish(group))
                self._send_parts(held, held.answer)

    def _send_parts(self, held: InHand, answer: Answer) -> None:
        for part in answer.take(held.timing()):
            self._reply(held, part, f"{part.request_id}-{part.part}")
        if answer.complete:
            self._engine.forget(held.key)

    def _reply(self, held: InHand, message: LatentsV1 | FailedV1, message_id: str) -> None:
        held.unconfirmed += 1
        addressed = outgoing(
            message,
            exchange=EXCHANGE_DOWN,
            routing_key=device_key(held.user),
            message_id=message_id,
            correlation_id=held.request.request_id,
        )
        self._replies.send(held.key, addressed)

    def _fail(self, held: InHand, reason: str, detail: str, *, dead_letter: bool) -> None:
        """Tell the device that nothing will come, and only then end the delivery."""
        log.warning(
            "request_failed", request_id=held.request.request_id, user=held.user, reason=reason, detail=detail
        )
        held.answer = None
        held.outcome = "expired" if reason == "expired" else "failed"
        held.refusal = (reason, detail) if dead_letter else None
        self._engine.forget(held.key)
        failed = FailedV1(
            request_id=held.request.request_id, reason=reason, detail=detail[:DETAIL_CHARACTERS]
        )
        self._reply(held, failed, f"{held.request.request_id}-failed")

    def _settle(self) -> None:
        """Send replies, and end the deliveries whose replies are all confirmed."""
        for outcome in self._replies.pump(time.monotonic()):
            held = self._in_hand.get(outcome.key)
            if held is not None:
                self._settle_one(held, outcome)

    def _settle_one(self, held: InHand, outcome: Outcome) -> None:
        held.unconfirmed -= 1
        if outcome.error is None:
            if held.all_sent and held.unconfirmed == 0:
                self._close(held)
            return
        if isinstance(outcome.error, Unroutable) and (held.refusal is not None or held.delivery.is_last):
            if held.delivery.is_last:
                held.refusal = ("no_inbox", f"the device's inbox is gone: {outcome.error}")
            held.outcome = "undeliverable" if held.outcome == "completed" else held.outcome
            self._close(held)
            return
        log.warning(
            "reply_given_up", request_id=held.request.request_id, user=held.user, error=str(outcome.error)
        )
        self._give_back(held)

    def _close(self, held: InHand) -> None:
        held.end()
        seconds = time.monotonic() - held.taken_seconds
        self._metrics.requests_total.labels(outcome=held.outcome).inc()
        self._metrics.request_seconds.observe(seconds)
        log.info(
            "request_ended",
            request_id=held.request.request_id,
            user=held.user,
            outcome=held.outcome,
            seconds=round(seconds, 3),
        )
        self._release(held)

    def _give_back(self, held: InHand) -> None:
        held.delivery.requeue()
        self._metrics.requests_total.labels(outcome="requeued").inc()
        self._release(held)

    def _release(self, held: InHand) -> None:
        self._scheduler.drop([held.key])
        self._engine.forget(held.key)
        self._replies.drop(held.key)
        self._in_hand.pop(held.key, None)

    # -- the end -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        for consumer in self._consumers:
            consumer.pause()
        for key in self._scheduler.untouched():
            self._give_back(self._in_hand[key])
        deadline = time.monotonic() + self._drain_seconds
        log.info("draining", requests=len(self._in_hand), limit_seconds=self._drain_seconds)
        while self._in_hand and time.monotonic() < deadline:
            self._turn()
            if self._scheduler.idle:
                threading.Event().wait(0.01)
        for held in list(self._in_hand.values()):
            self._give_back(held)
        for consumer in self._consumers:
            consumer.close()
        log.info("drained")


def _sender(delivery: Delivery) -> tuple[str, str]:
    """(client, user) of the sender. Raises Refused."""
    try:
        client, device = expect_user(delivery)
    except InvalidName as error:
        raise Refused("not_a_device", str(error)) from error
    return client, user_name(client, device)


def _request(delivery: Delivery) -> DenoiseV1:
    """The request inside. Raises Refused."""
    request = delivery.message()
    if not isinstance(request, DenoiseV1):
        raise Refused("wrong_type", f"{request.type_name} has no place in the queue {delivery.queue}")
    return request
