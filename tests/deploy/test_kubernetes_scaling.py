"""What KEDA reads of a queue, asked of a real broker as it asks: its scaler with `protocol: http` and `mode: QueueLength`."""

from typing import Any
from urllib.parse import quote_plus

import httpx
import pika

from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, QUEUE_DENOISE
from server_worker.settings import DenoiseSettings
from tests.conftest import wait_until
from tests.deploy.manifests import BY_NAME

(TRIGGER,) = [
    trigger["metadata"]
    for trigger in BY_NAME["ScaledObject", "denoiser"]["spec"]["triggers"]
    if trigger["metadata"]["queueName"] == QUEUE_DENOISE
]
IN_HAND = DenoiseSettings.model_fields["requests_in_hand"].default


def test_requests_in_a_workers_hands_count_and_a_further_one_starts_another(
    node: NodeInfo, server_settings: BrokerSettings
) -> None:
    def asked() -> dict[str, Any]:
        vhost, queue = quote_plus(TRIGGER["vhostName"]), quote_plus(TRIGGER["queueName"])
        answer = httpx.get(
            f"{node.management_url}/api/queues/{vhost}/{queue}", auth=(node.user, node.password), timeout=20
        )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        channel.confirm_delivery()
        for _ in range(IN_HAND + 1):
            channel.basic_publish(EXCHANGE_UP, f"clinic_device.{QUEUE_DENOISE}", b"", mandatory=True)
        taken = [channel.basic_get(QUEUE_DENOISE)[0] for _ in range(IN_HAND)]
        assert None not in taken

        wait_until(lambda: asked().get("messages_ready") == 1, "the API knows of what a worker has taken")
        target = float(TRIGGER["value"])
        assert asked()["messages"] / target > 1, "KEDA wants a second worker"
        assert asked()["messages_ready"] / target < 1, "by this there would be one, and none once it is taken"
        channel.basic_ack(taken[-1].delivery_tag, multiple=True)
        channel.queue_purge(QUEUE_DENOISE)
