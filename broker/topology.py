"""Every exchange, queue and binding of a federation, as data, and one function that declares them.

Each declaration is explicit in kind, durability and limits, so the same names mean the same thing on RabbitMQ 3.10 to 4.3, whose
defaults differ. Declaring is idempotent; a queue that exists with other arguments is an error, never a silent difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker import names
from broker.errors import TopologyMismatch

EXCHANGE_UP = "collafuse.up"
EXCHANGE_DOWN = "collafuse.down"
QUEUE_SAMPLES = "samples"
QUEUE_DENOISE = "denoise"
QUEUE_PREFETCH = "prefetch"
QUEUE_TELEMETRY = "telemetry"
QUEUE_DEAD = "dead"
WORK_QUEUES = (QUEUE_SAMPLES, QUEUE_DENOISE, QUEUE_PREFETCH)
UP_KINDS = (*WORK_QUEUES, QUEUE_TELEMETRY, "receipt")
"""What a device may send: the second word of its routing keys."""

DELIVERY_LIMIT = 5
"""Returns of one message before it counts as poison; a worker that dies returns all it held."""
BROKER_DELIVERY_LIMIT = 1_000_000_000
"""Every look into the dead-letter queue is a delivery of what it shows, and RabbitMQ 4 drops from a quorum queue what was
delivered more than 20 times, unless told otherwise. A number that is never reached: 3.10 knows no word for *no limit*."""
SAMPLES_MAX_BYTES = 8 * 1024**3
DENOISE_MAX_BYTES = 256 * 1024**2
PREFETCH_MAX_BYTES = 256 * 1024**2
TELEMETRY_MAX_BYTES = 64 * 1024**2
DEAD_MAX_BYTES = 2 * 1024**3
INBOX_MAX_BYTES = 512 * 1024**2
REPORTS_MAX_BYTES = 16 * 1024**2
INBOX_EXPIRES_MILLISECONDS = 30 * 24 * 3600 * 1000

Arguments = Mapping[str, str | int]


@dataclass(frozen=True)
class ExchangeSpec:
    """A durable exchange; `kind` is AMQP's exchange type."""

    name: str
    kind: str = "topic"


@dataclass(frozen=True)
class QueueSpec:
    """A durable, shared queue with all its arguments, the queue type among them."""

    name: str
    arguments: Arguments


@dataclass(frozen=True)
class BindingSpec:
    """What `exchange` receives under `routing_key` goes to `queue`."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True)
class Topology:
    """Exchanges, queues and bindings, in the order in which they can be declared."""

    exchanges: tuple[ExchangeSpec, ...]
    queues: tuple[QueueSpec, ...]
    bindings: tuple[BindingSpec, ...]


def _work_queue(name: str, max_bytes: int) -> QueueSpec:
    """A replicated queue that loses nothing: full means a nack, and what fails again and again is set aside by its consumers.

    It has no dead-letter exchange. RabbitMQ 3.10 believes the `x-death` header that a publisher sent along: one device could
    end the broker's dead-lettering of a queue, and with it keep what others sent from being set aside (docs/adr/0002).
    """
    return QueueSpec(
        name,
        MappingProxyType(
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": BROKER_DELIVERY_LIMIT,
                "x-overflow": "reject-publish",
                "x-max-length-bytes": max_bytes,
            }
        ),
    )


FEDERATION = Topology(
    exchanges=(ExchangeSpec(EXCHANGE_UP), ExchangeSpec(EXCHANGE_DOWN)),
    queues=(
        QueueSpec(
            QUEUE_DEAD,
            MappingProxyType(
                {
                    "x-queue-type": "quorum",
                    "x-delivery-limit": BROKER_DELIVERY_LIMIT,
                    "x-overflow": "reject-publish",
                    "x-max-length-bytes": DEAD_MAX_BYTES,
                }
            ),
        ),
        _work_queue(QUEUE_SAMPLES, SAMPLES_MAX_BYTES),
        _work_queue(QUEUE_DENOISE, DENOISE_MAX_BYTES),
        _work_queue(QUEUE_PREFETCH, PREFETCH_MAX_BYTES),
        QueueSpec(
            QUEUE_TELEMETRY,
            MappingProxyType(
                {
                    "x-queue-type": "classic",
                    "x-overflow": "drop-head",
                    "x-max-length-bytes": TELEMETRY_MAX_BYTES,
                }
            ),
        ),
    ),
    bindings=tuple(
        BindingSpec(EXCHANGE_UP, queue, f"*.{queue}") for queue in (*WORK_QUEUES, QUEUE_TELEMETRY)
    ),
)
"""What `collafuse broker init` declares, once per vhost."""


def inbox(client: str, device: str) -> Topology:
    """Returns the inbox of one device and its bindings.

    A classic queue, because a quorum queue per device does not scale; it goes when nobody has read it for 30 days.

    Raises:
        InvalidName: if a name must not become part of a routing key.
    """
    user = names.user_name(client, device)
    queue = names.inbox(user)
    arguments: dict[str, str | int] = {
        "x-queue-type": "classic",
        "x-expires": INBOX_EXPIRES_MILLISECONDS,
        "x-overflow": "reject-publish",
        "x-max-length-bytes": INBOX_MAX_BYTES,
    }
    return Topology(
        exchanges=(),
        queues=(QueueSpec(queue, MappingProxyType(arguments)),),
        bindings=tuple(
            BindingSpec(EXCHANGE_DOWN, queue, key) for key in (device_key(user), client_key(client), ALL_KEY)
        ),
    )


def reports(client: str, devices: Iterable[str]) -> Topology:
    """Returns the queue in which the owner of a client finds what these of its devices report of themselves.

    A copy of what the server gets: it may lose the oldest. It stays, since its bindings would go with it.

    Raises:
        InvalidName: if a name must not become part of a routing key.
    """
    queue = names.reports(client)
    arguments: dict[str, str | int] = {
        "x-queue-type": "classic",
        "x-overflow": "drop-head",
        "x-max-length-bytes": REPORTS_MAX_BYTES,
    }
    keys = [up_key(names.user_name(client, device), QUEUE_TELEMETRY) for device in devices]
    return Topology(
        exchanges=(),
        queues=(QueueSpec(queue, MappingProxyType(arguments)),),
        bindings=tuple(BindingSpec(EXCHANGE_UP, queue, key) for key in keys),
    )


ALL_KEY = "all"
"""Routing key on `collafuse.down` that reaches every device."""


def up_key(user: str, kind: str) -> str:
    """Returns the routing key on `collafuse.up` under which `user` sends messages of `kind` (one of UP_KINDS)."""
    if kind not in UP_KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(UP_KINDS)}")
    return f"{user}.{kind}"


def device_key(user: str) -> str:
    """Returns the routing key on `collafuse.down` that reaches one device."""
    return f"device.{user}"


def client_key(client: str) -> str:
    """Returns the routing key on `collafuse.down` that reaches all devices of a client."""
    return f"client.{client}"


def declare(channel: BlockingChannel, topology: Topology = FEDERATION) -> None:
    """Declares everything in `topology`; what exists as it should stays untouched.

    Raises:
        TopologyMismatch: if something exists with other arguments; the broker has closed the channel then.
    """
    try:
        for exchange in topology.exchanges:
            channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True)
        for queue in topology.queues:
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        for binding in topology.bindings:
            channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
    except ChannelClosedByBroker as error:
        raise TopologyMismatch(
            f"the broker refused a declaration: {error.reply_text} -- rights over the whole vhost are needed,"
            " and a queue that exists with other arguments has to be emptied and deleted first"
        ) from error
