"""The requests in hand, from their delivery to their end.

A request is acknowledged when the broker has confirmed every part of its answer, so a worker may die at any moment: the request
goes to another, which computes the same.
"""

import time
from collections.abc import Sequence

import numpy as np
import structlog
from structlog.contextvars import bound_contextvars

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.fields import MAX_SECONDS
from broker.delivery import Delivery, expect_user
from broker.errors import InvalidName, Refused, Unroutable
from broker.names import user_name
from broker.publisher import outgoing
from broker.topology import EXCHANGE_DOWN, device_key
from diffusion.errors import PlanError
from monitoring.metrics import DenoiseMetrics
from server_worker.denoising.answer import Answer
from server_worker.denoising.chain import prepare
from server_worker.denoising.engine import Engine
from server_worker.denoising.in_hand import InHand
from server_worker.denoising.replies import Outcome, Replies
from server_worker.denoising.scheduler import Group, Job, Scheduler
from server_worker.errors import CannotServe
from server_worker.versions import Backbone

log = structlog.get_logger(__name__)

DETAIL_CHARACTERS = 500


class RequestDesk:
    """Takes requests in, keeps scheduler and engine told of them, sends what is done, and ends every delivery exactly once.

    part_bytes: bound of one part of an answer.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        engine: Engine,
        replies: Replies,
        metrics: DenoiseMetrics,
        part_bytes: int,
    ) -> None:
        self._scheduler = scheduler
        self._engine = engine
        self._replies = replies
        self._metrics = metrics
        self._part_bytes = part_bytes
        self._in_hand: dict[str, InHand] = {}

    @property
    def requests(self) -> int:
        """Requests in hand."""
        return len(self._in_hand)

    @property
    def awaits_confirms(self) -> bool:
        """Whether replies wait to be sent or confirmed."""
        return not self._replies.idle

    def accept(self, delivery: Delivery, backbone: Backbone) -> None:
        """Take one delivery in, to be served with `backbone`, or refuse it with its reason."""
        try:
            client, user = _sender(delivery)
            request = _request(delivery)
        except Refused as refusal:
            delivery.refuse(refusal.reason, refusal.detail)
            self._metrics.requests_total.labels(outcome="refused").inc()
            return
        with bound_contextvars(request_id=request.request_id, job_id=delivery.trace_id):
            self._accept_request(delivery, client, user, request, backbone)

    def expire(self, now_seconds: float) -> None:
        """Give up what nobody waits for any more, and say so."""
        for key in self._scheduler.expired(now_seconds):
            self._scheduler.drop([key])
            held = self._in_hand[key]
            detail = f"not done within its time to live of {held.request.ttl_seconds:g} s"
            self._fail(held, "expired", detail, dead_letter=False)

    def note_start(self, groups: Sequence[Group], now_seconds: float) -> None:
        """These samples take part in the step that begins now."""
        for group in groups:
            held = self._in_hand[group.key]
            if held.started_seconds is None:
                held.started_seconds = now_seconds
                log.info("request_begun", **held.ids)

    def note_step(self, groups: Sequence[Group], seconds: float) -> None:
        """They did, and it took so long."""
        for key in {group.key for group in groups}:
            held = self._in_hand.get(key)
            if held is not None:
                held.steps += 1
                held.steps_seconds += seconds

    def send(self, group: Group) -> None:
        """Samples go back as soon as they are done."""
        held = self._in_hand[group.key]
        if held.answer is None:
            return
        samples = self._engine.finish(group)
        if not np.isfinite(samples).all():
            self._scheduler.drop([held.key])
            detail = f"version {held.answer.backbone_version} gave values that are not finite"
            self._fail(held, "not_finite", detail, dead_letter=True)
            return
        for part in held.answer.parts(group.first, samples, held.timing()):
            self._reply(held, part, f"{part.request_id}-{part.first}-{len(part.x)}")
            log.info("part_sent", **held.ids, first=part.first, samples=len(part.x))
        if held.answer.complete:
            self._engine.forget(held.key)
            step_seconds = round(held.timing().step_seconds, 6)
            log.info("request_computed", **held.ids, calls=held.steps, step_seconds=step_seconds)

    def settle(self) -> None:
        """Send replies, and end the deliveries whose replies are all confirmed."""
        for outcome in self._replies.pump(time.monotonic()):
            held = self._in_hand.get(outcome.key)
            if held is not None:
                self._settle_one(held, outcome)

    def give_back_untouched(self) -> None:
        """Give the requests back to their queue of which no sample has begun."""
        for key in self._scheduler.untouched():
            self._give_back(self._in_hand[key])

    def give_back_all(self) -> None:
        """Give everything back that is still in hand."""
        for held in list(self._in_hand.values()):
            self._give_back(held)

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
        self._scheduler.add(Job(key, client, request.n, len(request.plan) - 1, request.priority, deadline))
        log.info(
            "request_taken",
            user=user,
            samples=request.n,
            evaluations=len(request.plan) - 1,
            version=backbone.number,
            deliveries=delivery.delivery_count + 1,
        )

    def _adopt(self, known: InHand, delivery: Delivery, request: DenoiseV1) -> None:
        """A request that is in hand came again: its last delivery is the one to end, the work goes on."""
        if known.request != request:
            delivery.refuse("conflicting_request", "another request with this id is in hand")
            return
        known.delivery.ack()
        known.delivery = delivery
        log.info("request_redelivered", user=known.user)

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
        log.warning("request_failed", **held.ids, user=held.user, reason=reason, detail=detail)
        held.answer = None
        held.outcome = "expired" if reason == "expired" else "failed"
        held.refusal = (reason, detail) if dead_letter else None
        self._engine.forget(held.key)
        failed = FailedV1(
            request_id=held.request.request_id, reason=reason, detail=detail[:DETAIL_CHARACTERS]
        )
        self._reply(held, failed, f"{held.request.request_id}-failed")

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
        log.warning("reply_given_up", **held.ids, user=held.user, error=str(outcome.error))
        self._give_back(held)

    def _close(self, held: InHand) -> None:
        held.end()
        seconds = time.monotonic() - held.taken_seconds
        self._metrics.requests_total.labels(outcome=held.outcome).inc()
        self._metrics.request_seconds.observe(seconds)
        if held.outcome == "completed" and held.delivery.published_at is not None:
            # By two machines' clocks: what cannot be is a clock that is set wrong, and would draw the quantiles to it.
            since_published = time.time() - held.delivery.published_at
            if 0 <= since_published <= MAX_SECONDS:
                self._metrics.end_to_end_seconds.observe(since_published)
        log.info(
            "request_ended",
            **held.ids,
            user=held.user,
            outcome=held.outcome,
            seconds=round(seconds, 3),
        )
        self._release(held)

    def _give_back(self, held: InHand) -> None:
        if held.delivery.is_last:  # given back once more it would be gone without a word
            held.delivery.refuse(*(held.refusal or ("delivered_too_often", "its last attempt was cut short")))
        else:
            held.delivery.requeue()
        self._metrics.requests_total.labels(outcome="requeued").inc()
        log.info("request_given_back", **held.ids, user=held.user)
        self._release(held)

    def _release(self, held: InHand) -> None:
        self._scheduler.drop([held.key])
        self._engine.forget(held.key)
        self._replies.drop(held.key)
        self._in_hand.pop(held.key, None)


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
