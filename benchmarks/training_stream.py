"""A stream of released samples at a stated rate, in a process of its own, as a fleet of devices would send it."""

import sys
import time

import numpy as np
from prometheus_client import CollectorRegistry

from broker.codec import digest, encode
from broker.connection import Connection
from broker.contract.samples import SamplesV1
from broker.publisher import Outgoing
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_UP, up_key
from diffusion.schedule import NoiseSchedule
from monitoring import logs
from monitoring.metrics import BrokerMetrics

SHAPE = (3, 32, 32)
SAMPLES = 64
"""Of one message, as a device packs them."""
SCHEDULE = NoiseSchedule.cosine(1000)


def message(number: int) -> SamplesV1:
    """The number-th message: 64 samples of 3×32×32 as float16, 393 kB."""
    x = np.random.default_rng(number % 8).standard_normal((SAMPLES, *SHAPE)).astype(np.float16)
    return SamplesV1(schedule_id=SCHEDULE.schedule_id, t_cut=300, release=number, x=x)


def send(user: str, url: str, bytes_per_second: float, messages: int) -> None:
    """Send so many messages, evenly; what was missed while this process was stopped is not made up for."""
    bodies = [message(number) for number in range(8)]
    settings = BrokerSettings.from_url(url)
    with Connection(settings, name="stream", metrics=BrokerMetrics(CollectorRegistry())) as connection:
        publisher = connection.publisher()
        connection.wait_connected(30)
        due_seconds = time.monotonic()
        for number in range(messages):
            body = encode(bodies[number % 8].model_copy(update={"release": number}))
            publisher.publish(
                Outgoing(EXCHANGE_UP, up_key(user, "samples"), digest(body), SamplesV1.type_name, body)
            )
            due_seconds = max(due_seconds + len(body) / bytes_per_second, time.monotonic() - 0.1)
            time.sleep(max(0.0, due_seconds - time.monotonic()))


if __name__ == "__main__":
    logs.configure("stream", level="warning")
    send(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
