"""A device that gives others' names wherever it can is answered itself, and nobody else hears of it."""

from collections.abc import Callable

import pika
from pika.exceptions import ChannelClosedByBroker

from broker.codec import encode
from broker.contract.denoise import DenoiseV1
from broker.identities import enroll
from broker.management import Management
from broker.names import inbox
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, up_key
from server_worker.versions import Backbone
from tests.server_worker.denoising.test_denoising import Running, backbone, request, running, storage
from tests.server_worker.devices import Device, connect

__all__ = ["backbone", "running", "storage"]  # fixtures


def ask(url: str, user: str, message: DenoiseV1, **properties: object) -> bool:
    """Publish a request under a device's own user; returns whether the broker took it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        channel = link.channel()
        channel.confirm_delivery()
        given = {"user_id": user, "type": message.type_name, "message_id": message.request_id, **properties}
        try:
            channel.basic_publish(
                EXCHANGE_UP,
                up_key(user, "denoise"),
                encode(message),
                pika.BasicProperties(delivery_mode=2, **given),
            )
        except ChannelClosedByBroker:
            return False
        return True


def test_the_answer_goes_to_the_sender_whatever_reply_to_says(
    backbone: Backbone,
    running: Running,
    device: Callable[..., Device],
    node: NodeInfo,
    server_settings: BrokerSettings,
) -> None:
    victim = device("clinic")
    with Management(node.management_url, node.user, node.password) as management:
        forger = enroll(management, "clinic", "forger", address=server_settings)
    forged: dict[str, dict[str, object]] = {
        "reply_to": {"reply_to": inbox(victim.user)},
        "correlation_id and app_id": {"correlation_id": victim.user, "app_id": victim.user},
        "headers": {"headers": {"user_id": victim.user, "reply_to": inbox(victim.user)}},
        # RabbitMQ 3.10 does not compare these keys with the device's rights, and 4.0 refuses them: nothing is gained either way.
        "CC": {"headers": {"CC": [up_key(victim.user, "denoise")]}},
        "BCC": {"headers": {"BCC": [up_key(victim.user, "prefetch")]}},
    }
    asked = {what: request(n=1) for what in forged}

    taken = [
        asked[what]
        for what, properties in forged.items()
        if ask(forger.amqp_url, "clinic_forger", asked[what], **properties)
    ]

    assert len(taken) >= len(forged) - 2, "only keys may be refused, for they are routing, not content"
    own = connect(BrokerSettings.from_url(forger.amqp_url), "clinic", "forger")
    try:
        for message in taken:
            assert len(own.latents(message)) == 1
        # What was meant for the victim would stand in its inbox before the answer to a request of its own.
        last = request(n=1)
        victim.ask(last)
        victim.latents(last)
        assert {message.request_id for message in victim.received if hasattr(message, "request_id")} == {
            last.request_id
        }
    finally:
        own.connection.stop()
