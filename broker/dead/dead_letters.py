"""The dead-letter queue as its operator works on it: looked through, put back, or emptied."""

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pika
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    NackError,
    UnroutableError,
)

from broker.causes import in_words
from broker.dead.letters import Letter, Wanted, read
from broker.delivery import DEFAULT_EXCHANGE, REPLAYED_HEADER, SENDER_HEADER, is_device
from broker.errors import Blocked, BrokerUnreachable, ConfigError, Nacked, PublishFailed, Unroutable
from broker.foreign_headers import make_harmless
from broker.parameters import ways
from broker.publisher import PERSISTENT, PUBLISHED_AT_HEADER
from broker.settings import BrokerSettings
from broker.topology import QUEUE_DEAD

BLOCKED_TIMEOUT_SECONDS = 15.0
RETURN_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Held:
    """A letter on loan: until it is ended, nobody else sees it, and it returns by itself."""

    letter: Letter
    body: bytes
    properties: pika.BasicProperties
    tag: int


class DeadLetters:
    """The dead-letter queue of one broker, on a connection of its own; a context manager.

    settings: a server-side user; it may not be a device's, for its word on whom a replayed message is from is believed.

    Letters that are looked at and not ended return to the queue, in any order, when the connection ends. No more than one body is
    held here at a time.

    Raises:
        BrokerUnreachable: by every method, if the broker cannot be used.
        ConfigError: if the user is a device's.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        if is_device(settings.user):
            raise ConfigError(
                f"user {settings.user!r} has the form of a device's, <client>_<device>: take a user without an underscore"
            )
        make_harmless()
        logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it says is said again, in one line
        self._settings = settings
        self._held = 0
        nodes = ways(settings, name="collafuse broker dead", blocked_timeout_seconds=BLOCKED_TIMEOUT_SECONDS)
        with self._translated():
            self._connection = pika.BlockingConnection(nodes)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            self.total = self._ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what was not ended, and closes the connection once it is there for the next one to see."""
        if not self._connection.is_open:
            return
        with self._translated():
            if self._held and self._channel.is_open:
                self._channel.basic_nack(delivery_tag=0, multiple=True, requeue=True)
                deadline = time.monotonic() + RETURN_SECONDS
                while self._ready() < self._held and time.monotonic() < deadline:
                    self._connection.sleep(0.02)
            self._connection.close()

    def _ready(self) -> int:
        return int(self._channel.queue_declare(QUEUE_DEAD, passive=True).method.message_count)

    def letters(self, wanted: Wanted) -> Iterator[Held]:
        """Yields the letters that are meant, each at most once, of those that were there when the connection was opened."""
        for _ in range(self.total):
            with self._translated():
                method, properties, body = self._channel.basic_get(QUEUE_DEAD)
            if method is None:
                return
            self._held += 1
            held = Held(read(properties, body), body, properties, method.delivery_tag)
            del properties, body
            if wanted.takes(held.letter):
                yield held

    def replay(self, held: Held) -> None:
        """Puts a copy into the queue the letter was set aside from, and takes the letter away once the broker has the copy.

        Between the two it may exist twice, never not at all; a repeat is recognised by its message id.

        Raises:
            ValueError: if the letter has an obstacle.
            PublishFailed: if the broker does not take the copy; the letter stays.
        """
        if held.letter.obstacle is not None:
            raise ValueError(held.letter.obstacle)
        self._publish(held)
        self.drop(held)

    def drop(self, held: Held) -> None:
        """Takes the letter away for good."""
        with self._translated():
            self._channel.basic_ack(held.tag)
        self._held -= 1

    def _publish(self, held: Held) -> None:
        letter = held.letter
        name = f"letter {letter.key}"
        try:
            self._channel.basic_publish(
                DEFAULT_EXCHANGE,
                letter.origin,
                held.body,
                _properties(held, self._settings.user),
                mandatory=True,
            )
        except UnroutableError as error:
            raise Unroutable(
                f"{name} was not replayed: there is no queue {letter.origin}, run `collafuse broker init`"
            ) from error
        except NackError as error:
            raise Nacked(f"{name} was not replayed: the queue {letter.origin} is full") from error
        except ConnectionBlockedTimeout as error:
            raise Blocked(f"{name} was not replayed: the broker is in alarm and takes no messages") from error
        except (AMQPError, OSError) as error:
            raise PublishFailed(
                f"{name} may have been replayed, and stays: the connection ended ({in_words(error)})"
            ) from error

    def _translated(self) -> "_Translated":
        return _Translated(self._settings)


class _Translated:
    """Turns what pika raises into one line about the broker."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ChannelClosedByBroker):
            hint = "; run `collafuse broker init`" if error.reply_code == 404 else ""
            raise BrokerUnreachable(
                f"cannot read the queue {QUEUE_DEAD} on {self._settings}: {error.reply_text}{hint}"
            ) from error
        if isinstance(error, AMQPError | OSError):
            raise BrokerUnreachable(
                f"cannot use the broker at {self._settings}: {in_words(error)}"
            ) from error


def _properties(held: Held, user: str) -> pika.BasicProperties:
    """The envelope of a copy: the message's own, under the replayer's name, with the sender's beside it.

    Of the headers only ours are kept, for the others are the device's choice, and an old `x-reason` or `x-death` would be read
    as the story of the copy.
    """
    original, letter = held.properties, held.letter
    return pika.BasicProperties(
        content_type=original.content_type,
        delivery_mode=PERSISTENT,
        message_id=original.message_id,
        correlation_id=original.correlation_id,
        type=original.type,
        timestamp=original.timestamp,
        user_id=user,
        expiration=letter.expiration,
        headers={
            SENDER_HEADER: letter.sender,
            REPLAYED_HEADER: letter.replayed + 1,
            PUBLISHED_AT_HEADER: int(time.time() * 1000),
        },
    )


def keep(held: Held, directory: Path) -> None:
    """Writes KEY.body and KEY.json to `directory`, made if it is not there, and returns when both are on the disk.

    Raises:
        ConfigError: if that cannot be done.
    """
    known = asdict(held.letter)
    files = {"body": held.body, "json": json.dumps(known, indent=2).encode()}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for ending, content in files.items():
            with (directory / f"{held.letter.key}.{ending}").open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigError(f"cannot keep the letters in {directory}: {error.strerror}") from error
