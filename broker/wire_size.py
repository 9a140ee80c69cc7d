"""How many bytes a message is on a connection: its body in frames, behind the method and the properties that go with it.

What TLS, TCP and IP add comes on top of it: some 5 % where frames are large.
"""

from pika.frame import Header, Method
from pika.spec import FRAME_END_SIZE, FRAME_HEADER_SIZE, Basic

from broker.publisher import Outgoing, properties_of

FRAME_MAX_BYTES = 131_072
"""What RabbitMQ and pika agree on, unless one of them is told otherwise."""

_CHANNEL = 1
_CONSUMER_TAG = "ctag1." + 32 * "0"  # as pika makes them


def published_bytes(message: Outgoing, user: str) -> int:
    """A message as its publisher `user` sends it."""
    method = Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True)
    return len(Method(_CHANNEL, method).marshal()) + _content_bytes(message, user)


def delivered_bytes(message: Outgoing, user: str) -> int:
    """The same message as a consumer receives it."""
    method = Basic.Deliver(_CONSUMER_TAG, 1, False, message.exchange, message.routing_key)
    return len(Method(_CHANNEL, method).marshal()) + _content_bytes(message, user)


def answered_bytes() -> int:
    """A confirm by the broker, or the acknowledgement of one message by its consumer."""
    return len(Method(_CHANNEL, Basic.Ack(delivery_tag=1)).marshal())


def _content_bytes(message: Outgoing, user: str) -> int:
    size_bytes = len(message.body)
    header = Header(_CHANNEL, size_bytes, properties_of(message, user)).marshal()
    around_bytes = int(FRAME_HEADER_SIZE + FRAME_END_SIZE)
    frames = -(-size_bytes // (FRAME_MAX_BYTES - around_bytes))
    return len(header) + size_bytes + frames * around_bytes
