"""The server as a device sees it: takes denoise requests from the real queue and answers with the exact half chain."""

import threading
from types import TracebackType
from typing import Any, Self

import numpy as np
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.message import Message
from broker.delivery import Delivery, expect_user
from broker.names import user_name
from broker.publisher import outgoing
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_DOWN, device_key
from diffusion import sampling
from diffusion.noise import initial_noise
from diffusion.schedule import NoiseSchedule
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS

MEAN, VARIANCE = 0.25, 0.2


def gaussian_eps(schedule: NoiseSchedule, x: Any, t: Any) -> Any:
    """The optimal noise predictor of x_0 ~ N(MEAN, VARIANCE) in every pixel."""
    alpha_bar = schedule.alpha_bar[t][:, None, None, None]
    eps = np.sqrt(1 - alpha_bar) * (x - np.sqrt(alpha_bar) * MEAN) / (alpha_bar * VARIANCE + 1 - alpha_bar)
    return eps.astype(x.dtype)


def denoise(schedule: NoiseSchedule, request: DenoiseV1) -> np.ndarray:
    """What the server answers: (n, C, H, W) at the request's t_stop."""
    samples = np.arange(request.n)
    x = initial_noise(request.seed, samples, schedule.T, request.shape)
    return sampling.run(
        schedule,
        lambda x_t, t: gaussian_eps(schedule, x_t, t),
        x,
        request.plan,
        request.sampler,
        eta=request.eta,
        clip=request.clip,
        seeds=request.seed,
        samples=samples,
    )


class Server:
    """Answers while it is open; what it does can be changed between requests.

    parts: in how many messages an answer comes.  fail: answer with FailedV1.  repeats: send every answer so often.
    swallows: so many requests are taken and never answered.
    version: of the backbone that it says it answers with.
    """

    def __init__(self, settings: BrokerSettings, schedule: NoiseSchedule | None = None) -> None:
        self.parts = 2
        self.fail = False
        self.repeats = 1
        self.swallows = 0
        self.version = 1
        self.requests: list[DenoiseV1] = []
        self.answering = threading.Event()
        self.answering.set()
        self._schedule = schedule or NoiseSchedule.cosine(200)
        self._connection = Connection(
            settings, name="test-server", metrics=BrokerMetrics(CollectorRegistry())
        )
        self._consumers = [self._connection.consumer(queue, prefetch=4) for queue in ("denoise", "prefetch")]
        self._publisher = self._connection.publisher()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._connection.start()
        self._connection.wait_connected(WAIT_SECONDS)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.answering.set()
        self._thread.join(WAIT_SECONDS)
        self._connection.stop()

    def tell(self, user: str, message: Message, message_id: str) -> None:
        """Put a message into a device's inbox."""
        self._publisher.publish(
            outgoing(message, exchange=EXCHANGE_DOWN, routing_key=device_key(user), message_id=message_id)
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            for consumer in self._consumers:
                delivery = consumer.get(0.02)
                if delivery is not None:
                    self.answering.wait()
                    self._answer(delivery)

    def _answer(self, delivery: Delivery) -> None:
        request = delivery.message()
        assert isinstance(request, DenoiseV1)
        self.requests.append(request)
        if self.swallows > 0:
            self.swallows -= 1
            delivery.ack()
            return
        user = user_name(*expect_user(delivery))
        for _ in range(self.repeats):
            for index, message in enumerate(self._messages(request)):
                self.tell(user, message, f"{request.request_id}-{index}")
        delivery.ack()

    def _messages(self, request: DenoiseV1) -> list[Message]:
        if self.fail:
            return [
                FailedV1(
                    request_id=request.request_id, reason="no_version", detail="no backbone is published yet"
                )
            ]
        x = denoise(self._schedule, request).astype(request.dtype)
        pieces = np.array_split(np.arange(request.n), min(self.parts, request.n))
        return [
            LatentsV1(
                request_id=request.request_id,
                part=part,
                parts=len(pieces),
                first=int(piece[0]),
                x=x[piece],
                t_stop=request.t_stop,
                schedule_id=request.schedule_id,
                backbone_version=self.version,
                evaluations=len(request.plan) - 1,
                step_seconds=0.001,
                queued_seconds=0.0,
            )
            for part, piece in enumerate(pieces)
        ]
