"""How many messages and consumers a queue has now; the management API's figures are up to five seconds old."""

from dataclasses import dataclass

import pika
import pika.exceptions

from broker.causes import in_words
from broker.errors import BrokerUnreachable
from broker.parameters import ways
from broker.settings import BrokerSettings


@dataclass(frozen=True)
class Depth:
    """Messages that wait, without those that a consumer holds, and who takes them."""

    messages: int
    consumers: int


def depth(settings: BrokerSettings, queue: str) -> Depth | None:
    """Look at a queue, as a user who may; None when there is no such queue.

    Raises BrokerUnreachable when there is no connection.
    """
    try:
        with pika.BlockingConnection(ways(settings, name="collafuse depth")) as link:
            found = link.channel().queue_declare(queue, passive=True).method
            return Depth(found.message_count, found.consumer_count)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != 404:
            raise BrokerUnreachable(f"cannot look at the queue {queue}: {in_words(error)}") from error
        return None
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BrokerUnreachable(f"cannot use the broker at {settings}: {in_words(error)}") from error
