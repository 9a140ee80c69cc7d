"""A device as the server sees it: a connection under its own user, its messages up, its inbox down."""

import uuid
from dataclasses import dataclass, field
from typing import TypeVar

from prometheus_client import CollectorRegistry

from broker.codec import digest, encode
from broker.connection import Connection
from broker.consumer import Consumer
from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.message import Message
from broker.contract.samples import SamplesV1
from broker.names import inbox, user_name
from broker.publisher import Outgoing, Publisher, outgoing
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, up_key
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS, wait_until

MessageT = TypeVar("MessageT", bound=Message)


@dataclass(eq=False)
class Device:
    """One connected device; `received` grows with every look into the inbox."""

    user: str
    connection: Connection
    publisher: Publisher
    consumer: Consumer
    received: list[Message] = field(default_factory=list)

    def send_samples(self, message: SamplesV1) -> str:
        """Publish a batch; returns its message id."""
        body = encode(message)
        self.send_body(body, message.type_name, "samples", digest(body))
        return digest(body)

    def send_body(self, body: bytes, type_name: str, kind: str, message_id: str) -> None:
        """Publish any bytes as any type."""
        self.publisher.publish(Outgoing(EXCHANGE_UP, up_key(self.user, kind), message_id, type_name, body))

    def ask(self, request: DenoiseV1) -> None:
        """Publish a request."""
        kind = "denoise" if request.priority == "interactive" else "prefetch"
        self.publisher.publish(
            outgoing(
                request,
                exchange=EXCHANGE_UP,
                routing_key=up_key(self.user, kind),
                message_id=request.request_id,
            )
        )

    def look(self) -> None:
        """Take in whatever is in the inbox now."""
        while (delivery := self.consumer.get(0.02)) is not None:
            self.received.append(delivery.message())
            delivery.ack()

    def all_of(self, kind: type[MessageT]) -> list[MessageT]:
        """Everything of one type received so far."""
        self.look()
        return [message for message in self.received if isinstance(message, kind)]

    def latents(self, request: DenoiseV1, timeout_seconds: float = WAIT_SECONDS) -> dict[int, LatentsV1]:
        """Wait for every sample of the answer: parts by the first sample they hold."""

        def parts() -> dict[int, LatentsV1]:
            return {
                part.first: part for part in self.all_of(LatentsV1) if part.request_id == request.request_id
            }

        def complete() -> bool:
            return sum(len(part.x) for part in parts().values()) >= request.n

        wait_until(complete, f"request {request.request_id} was answered", timeout_seconds)
        return parts()

    def failure(self, request: DenoiseV1) -> FailedV1:
        """Wait for the request's failure."""

        def failures() -> list[FailedV1]:
            return [failed for failed in self.all_of(FailedV1) if failed.request_id == request.request_id]

        wait_until(lambda: bool(failures()), f"request {request.request_id} failed")
        return failures()[0]


def connect(settings: BrokerSettings, client: str, device: str) -> Device:
    """A device that stands and listens."""
    user = user_name(client, device)
    connection = Connection(settings, name=f"test-{user}", metrics=BrokerMetrics(CollectorRegistry()))
    publisher, consumer = connection.publisher(), connection.consumer(inbox(user), 64)
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    return Device(user, connection, publisher, consumer)


def new_request_id() -> str:
    """32 hex digits."""
    return uuid.uuid4().hex
