"""What KEDA reads of a queue, asked of a real broker as it asks: its scaler with `protocol: http` and `mode: QueueLength`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pika
import pytest

from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, QUEUE_DENOISE
from collafuse.deploy.broker_users import KEDA, holder
from collafuse.deploy.secret_files import DEFINITIONS_NAME, make
from server_worker.settings import DenoiseSettings
from tests.conftest import WAIT_SECONDS, wait_until
from tests.deploy.manifests import BY_NAME

(TRIGGER,) = [
    trigger["metadata"]
    for trigger in BY_NAME["ScaledObject", "denoiser"]["spec"]["triggers"]
    if trigger["metadata"]["queueName"] == QUEUE_DENOISE
]
IN_HAND = DenoiseSettings.model_fields["requests_in_hand"].default


@pytest.fixture
def keda(node: NodeInfo, tmp_path: Path) -> Iterator[httpx.Client]:
    """The management API as KEDA's user, whom the broker has from the definitions that are made for it."""
    make(tmp_path / "secrets", keda=True)
    made = json.loads((tmp_path / "secrets" / DEFINITIONS_NAME).read_text(encoding="utf-8"))
    password = (tmp_path / "secrets" / holder(KEDA)).read_text(encoding="utf-8")
    its = {
        "users": [user for user in made["users"] if user["name"] == KEDA],
        "permissions": [rights for rights in made["permissions"] if rights["user"] == KEDA],
    }
    with Management(node.management_url, node.user, node.password) as management:
        management.put_definitions(its)
        try:
            with httpx.Client(
                base_url=f"{node.management_url}/api/", auth=(KEDA, password), timeout=WAIT_SECONDS
            ) as client:
                yield client
        finally:
            management.delete_user(KEDA)


def test_kedas_user_sees_how_long_queues_are_and_can_do_nothing_else(
    node: NodeInfo, server_settings: BrokerSettings, keda: httpx.Client
) -> None:
    queue = f"queues/{node.vhost}/{QUEUE_DENOISE}"
    message = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        channel.confirm_delivery()
        channel.basic_publish(EXCHANGE_UP, f"clinic_device.{QUEUE_DENOISE}", b"", mandatory=True)

        assert keda.get(queue).is_success
        refused = [
            keda.post(f"{queue}/get", json=message),
            keda.delete(f"{queue}/contents"),
            keda.delete(queue),
            keda.put(f"queues/{node.vhost}/of-keda", json={"durable": True}),
            keda.get("nodes"),
            keda.get("users"),
            keda.get("definitions"),
            keda.put("users/intruder", json={"password": "x", "tags": "administrator"}),
        ]
        assert not [answer.url for answer in refused if answer.is_success]
        assert channel.queue_purge(QUEUE_DENOISE).method.message_count == 1, "nobody took it"


def test_requests_in_a_workers_hands_count_and_a_further_one_starts_another(
    server_settings: BrokerSettings, keda: httpx.Client
) -> None:
    def asked() -> dict[str, Any]:
        vhost, queue = quote_plus(TRIGGER["vhostName"]), quote_plus(TRIGGER["queueName"])
        found: dict[str, Any] = keda.get(f"queues/{vhost}/{queue}").raise_for_status().json()
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
