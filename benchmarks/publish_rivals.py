"""Other ways to publish: pika's own, and other libraries with their confirms on.

Each sender connects, publishes every body to the queue of that name, waits for its confirms if it has any, and calls `wait`
before it closes: a quorum queue may lose what was published without confirms when its channel ends too early.
"""

import asyncio
import base64
import json
import threading
from collections.abc import Callable

import aio_pika
import dramatiq
import pika
from celery import Celery
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from kombu.entity import Exchange, Queue
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel

Wait = Callable[[], None]
"""Returns when all messages stand in the queue."""
Sender = Callable[[str, str, list[bytes], Wait], None]

WINDOW = 256


def _properties(number: int) -> pika.BasicProperties:
    return pika.BasicProperties(delivery_mode=2, message_id=f"{number}", type="samples.v1")


def blocking_confirmed(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """BlockingConnection with confirm_delivery: one round trip for each message."""
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        channel = link.channel()
        channel.confirm_delivery()
        for number, body in enumerate(bodies):
            channel.basic_publish("", queue, body, _properties(number), mandatory=True)
        wait()


def blocking_unconfirmed(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """The same without confirms: whether a message arrives is not known."""
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        channel = link.channel()
        for number, body in enumerate(bodies):
            channel.basic_publish("", queue, body, _properties(number))
        wait()


def select_unconfirmed(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """SelectConnection without confirms, on its own loop: everything is handed to the socket at once."""

    def publish(channel: Channel) -> None:
        for number, body in enumerate(bodies):
            channel.basic_publish("", queue, body, _properties(number))

    loop = IOLoop()
    link = SelectConnection(
        pika.URLParameters(url),
        on_open_callback=lambda opened: opened.channel(on_open_callback=publish),
        on_close_callback=lambda *_: loop.stop(),
        on_open_error_callback=lambda *_: loop.stop(),
        custom_ioloop=loop,
    )
    thread = threading.Thread(target=loop.start)
    thread.start()
    wait()
    loop.add_callback_threadsafe(link.close)
    thread.join()


def aio_pika_one_by_one(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """aio-pika as its documentation shows it: each publish awaits its confirm."""

    async def run() -> None:
        async with await aio_pika.connect(url) as link:
            channel = await link.channel(publisher_confirms=True)
            for body in bodies:
                await channel.default_exchange.publish(_aio_message(body), queue, mandatory=True)
            wait()

    asyncio.run(run())


def aio_pika_gathered(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """aio-pika with a window of the same size as ours."""

    async def run() -> None:
        async with await aio_pika.connect(url) as link:
            channel = await link.channel(publisher_confirms=True)
            window = asyncio.Semaphore(WINDOW)

            async def publish(body: bytes) -> None:
                async with window:
                    await channel.default_exchange.publish(_aio_message(body), queue, mandatory=True)

            await asyncio.gather(*(publish(body) for body in bodies))
            wait()

    asyncio.run(run())


def _aio_message(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, type="samples.v1")


def celery_pickle(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """Celery's apply_async with confirm_publish, the bytes pickled: its serialiser that carries an array with the least work."""
    app = Celery("benchmark", broker=url)
    app.conf.update(broker_transport_options={"confirm_publish": True}, task_serializer="pickle")
    # By a direct exchange Celery means the default one, with the queue's name as the routing key.
    place = Queue(queue, Exchange(type="direct"), no_declare=True)  # type: ignore[no-untyped-call]
    with app.connection_for_write() as link, app.amqp.Producer(link, auto_declare=False) as producer:
        for body in bodies:
            app.send_task("samples", args=(body,), producer=producer, queue=place, declare=[], retry=False)
        wait()


class _Base64Encoder(dramatiq.Encoder):
    """Dramatiq's JSON, with the bytes in base64."""

    def encode(self, data: dict[str, object]) -> bytes:
        return json.dumps(data).encode()

    def decode(self, data: bytes) -> dict[str, object]:
        found: dict[str, object] = json.loads(data)
        return found


def dramatiq_base64(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """Dramatiq's enqueue with confirm_delivery; the bytes in base64, for its messages are JSON."""
    dramatiq.set_encoder(_Base64Encoder())
    broker = RabbitmqBroker(url=url, confirm_delivery=True, middleware=[])
    # The queue stands already, with arguments of our own.
    broker.queues.add(queue)
    broker.queues_pending.discard(queue)
    try:
        for body in bodies:
            message: dramatiq.Message[None] = dramatiq.Message(
                queue_name=queue,
                actor_name="samples",
                args=(base64.b64encode(body).decode("ascii"),),
                kwargs={},
                options={},
            )
            broker.enqueue(message)
        wait()
    finally:
        broker.close()


RIVALS: dict[str, Sender] = {
    "aio-pika, one by one": aio_pika_one_by_one,
    "aio-pika, gathered in the same window": aio_pika_gathered,
    "Celery, confirm_publish, pickle": celery_pickle,
    "Dramatiq, confirm_delivery, JSON and base64": dramatiq_base64,
}
