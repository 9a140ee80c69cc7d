"""One act on a real broker with somebody's credentials, and the code with which it is refused."""

from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from broker.credentials import Credentials

ACCESS_REFUSED = 403


def attempt(credentials: Credentials, act: Callable[[BlockingChannel], Any]) -> int:
    """Logs in, does one thing, and returns the code the broker closed the channel with, or 0."""
    link = pika.BlockingConnection(pika.URLParameters(credentials.amqp_url))
    try:
        channel = link.channel()
        channel.confirm_delivery()
        act(channel)
    except ChannelClosedByBroker as error:
        return int(error.reply_code)
    finally:
        link.close()
    return 0


def sends(exchange: str, key: str, user: str | None = None) -> Callable[[BlockingChannel], None]:
    properties = pika.BasicProperties(user_id=user)
    return lambda channel: channel.basic_publish(exchange, key, b"", properties)
