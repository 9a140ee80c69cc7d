"""Finding out what a broker is like: over AMQP for whoever may log in, over the management API for its operator.

Nothing is changed. A queue is declared anew only when it is there, which compares its arguments and does no more; the probe of
the message size goes through a queue of its own that goes with its connection.
"""

import datetime as dt
import logging
import time
from collections.abc import Callable

import pika
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from broker import shown_certificate, topology
from broker.address import is_loopback
from broker.causes import in_words
from broker.contract.fields import MAX_BODY_BYTES
from broker.errors import BrokerUnreachable, ConfigError, ManagementError
from broker.inspection.facts import ALARM, Facts, Link, Load, Managed, Probe, QueueState
from broker.inspection.management_facts import managed_facts
from broker.parameters import connection_parameters, ways
from broker.publisher import PERSISTENT, PUBLISHED_AT_HEADER
from broker.settings import BrokerSettings
from broker.topology import FEDERATION

BLOCKED_TIMEOUT_SECONDS = 10.0
NOT_FOUND, PRECONDITION_FAILED = 404, 406
FAILURES = (AMQPError, OSError)


def inspect(settings: BrokerSettings, management_url: str) -> Facts:
    """Returns what can be found out about a broker.

    Args:
        settings: where it is and as whom to log in; for all there is to know, a user with the tag `administrator`.
        management_url: root of the management API; without it less is found out, and said so.

    Raises:
        BrokerUnreachable: if there is no AMQP connection.
    """
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # to be turned away is an answer here
    link, states, loads = _over_amqp(settings)
    managed: Managed | None = None
    unmanaged = None
    try:
        managed = managed_facts(settings, management_url)
    except (ManagementError, ConfigError) as error:
        unmanaged = str(error)
    return Facts(
        broker=str(settings),
        vhost=settings.vhost,
        link=link,
        probe=_probe(settings),
        topology=states,
        loads=loads,
        guest=_guest_may_enter(settings),
        managed=managed,
        unmanaged=unmanaged,
    )


# -- over AMQP ----------------------------------------------------------------------------------------------------------


def _connect(settings: BrokerSettings) -> pika.BlockingConnection:
    """Returns a connection to the first host that answers, which does not wait long for an alarm to end."""
    return pika.BlockingConnection(
        ways(settings, name="collafuse doctor", blocked_timeout_seconds=BLOCKED_TIMEOUT_SECONDS)
    )


def _over_amqp(settings: BrokerSettings) -> tuple[Link, dict[str, QueueState], dict[str, Load]]:
    try:
        with _connect(settings) as connection:
            link = _link(settings, connection)
            states: dict[str, QueueState] = {
                exchange.name: _exchange_state(connection, exchange) for exchange in FEDERATION.exchanges
            }
            loads: dict[str, Load] = {}
            for queue in FEDERATION.queues:
                states[queue.name] = _queue_state(connection, queue)
                load = _load(connection, queue.name)
                if load is not None:
                    loads[queue.name] = load
            return link, states, loads
    except FAILURES as error:
        raise BrokerUnreachable(f"cannot use the broker at {settings}: {in_words(error)}") from error


def _link(settings: BrokerSettings, connection: pika.BlockingConnection) -> Link:
    inner = connection._impl  # the blocking connection does not hand on what the broker said of itself
    said = inner.server_properties or {}
    return Link(
        version=str(said.get("version", "unknown")),
        erlang=str(said.get("platform", "unknown")),
        cluster=str(said.get("cluster_name", "unknown")),
        channel_max=int(inner.params.channel_max),
        frame_max_bytes=int(inner.params.frame_max),
        heartbeat_seconds=int(inner.params.heartbeat or 0),
        encrypted=settings.tls,
        loopback=is_loopback(settings.host),
        certificate_days=_certificate_days(settings),
    )


def _certificate_days(settings: BrokerSettings) -> float | None:
    try:
        end = shown_certificate.ends_at(settings)
    except OSError:  # the first node may be away, where another answered
        return None
    return None if end is None else (end - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)


def _exchange_state(connection: pika.BlockingConnection, exchange: topology.ExchangeSpec) -> QueueState:
    def declare(*, passive: bool) -> None:
        connection.channel().exchange_declare(
            exchange.name, exchange_type=exchange.kind, durable=True, passive=passive
        )

    return _state(declare)


def _queue_state(connection: pika.BlockingConnection, queue: topology.QueueSpec) -> QueueState:
    def declare(*, passive: bool) -> None:
        connection.channel().queue_declare(
            queue.name, durable=True, arguments=dict(queue.arguments), passive=passive
        )

    return _state(declare)


def _state(declare: Callable[..., None]) -> QueueState:
    """Looks first, so that what is missing stays missing; then declares, which the broker answers by comparing."""
    try:
        declare(passive=True)
        declare(passive=False)
    except ChannelClosedByBroker as error:
        states: dict[int, QueueState] = {NOT_FOUND: "missing", PRECONDITION_FAILED: "other arguments"}
        return states.get(error.reply_code, "unknown")
    return "ok"


def _load(connection: pika.BlockingConnection, queue: str) -> Load | None:
    try:
        told = connection.channel().queue_declare(queue, passive=True).method
    except ChannelClosedByBroker:
        return None
    return Load(int(told.message_count), int(told.consumer_count))


def _probe(settings: BrokerSettings) -> Probe:
    """Sends a message of the largest body with a full envelope through a queue of its own, and takes it out again."""
    properties = pika.BasicProperties(
        content_type="application/msgpack",
        delivery_mode=PERSISTENT,
        message_id="0" * 64,
        type="samples.v1",
        user_id=settings.user,
        headers={PUBLISHED_AT_HEADER: int(time.time() * 1000)},
    )
    try:
        with _connect(settings) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            queue = channel.queue_declare("", exclusive=True, arguments={"x-queue-type": "classic"})
            channel.basic_publish("", queue.method.queue, bytes(MAX_BODY_BYTES), properties, mandatory=True)
            _, _, body = channel.basic_get(queue.method.queue, auto_ack=True)
    except ConnectionBlockedTimeout:
        return Probe(MAX_BODY_BYTES, False, ALARM)
    except ChannelClosedByBroker as error:
        return Probe(MAX_BODY_BYTES, False, str(error.reply_text))
    except FAILURES as error:
        return Probe(MAX_BODY_BYTES, False, in_words(error))
    whole = body is not None and len(body) == MAX_BODY_BYTES
    return Probe(MAX_BODY_BYTES, whole, "" if whole else "the message did not come out whole")


def _guest_may_enter(settings: BrokerSettings) -> bool | None:
    """Tries the password that everybody knows, once."""
    parameters = connection_parameters(settings, name="collafuse doctor")
    parameters.credentials = pika.PlainCredentials("guest", "guest")
    try:
        pika.BlockingConnection(parameters).close()
    except ProbableAccessDeniedError:
        return True  # the password was taken, only the vhost is closed to it
    except (ProbableAuthenticationError, AuthenticationError):
        return False
    except (AMQPConnectionError, *FAILURES):
        return None
    return True
