"""Letters on loan from the broker: each is dealt with when its sender may have sent it, and none is lost for want of room.

Only of a head's pieces too many to wait for room are dropped: the device tells what it lacks of a head, and that is sent again.
"""

import time
from collections import deque

import structlog

from broker.consumer import Consumer
from broker.delivery import Delivery
from edge_agent import clock, inbox
from edge_agent.heads import known_time
from edge_agent.link import senders
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

PREFETCH = 8
"""Letters that the broker lends at once; while some of them wait for room, the others come through."""
MAX_SET_BY = PREFETCH // 2
"""So many may wait: were it all of them, the broker would lend nothing more, and answers would stay away."""


class Letterbox:
    """What has come and is not acknowledged yet; the broker, which waits for an answer, does not send it again by itself.

    spool: the agent's; it is called in the agent's thread.
    consumer: of the device's inbox.
    heads: deals with heads on their way.
    user: who this device is.
    """

    def __init__(self, spool: Spool, consumer: Consumer, heads: inbox.HeadDesk, user: str) -> None:
        self._spool = spool
        self._consumer = consumer
        self._heads = heads
        self._user = user
        self._in_hand: Delivery | None = None
        self._set_by: deque[Delivery] = deque()
        self._dropped = 0

    def take(self, wait_seconds: float) -> bool:
        """Wait so long for a letter, and deal with it; False when none came.

        Raises SpoolError when it cannot be kept now: it is not acknowledged, and is the next to be dealt with.
        """
        if self._in_hand is None:
            self._in_hand = self._consumer.get(wait_seconds)
        if self._in_hand is None:
            return False
        self._deal_with(self._in_hand)
        self._in_hand = None
        return True

    def take_set_by(self) -> None:
        """Deal with what heads sent and the disk had no room for, in its order, until there is none again."""
        while self._set_by and inbox.take(self._spool, self._set_by[0], self._heads) != "no_room":
            self._set_by.popleft()
            if not self._set_by:
                log.info("head_has_room", dropped=self._dropped)
                self._dropped = 0

    def _deal_with(self, letter: Delivery) -> None:
        """One letter, if its sender may have sent it; a time on it is a time that has passed."""
        objection = senders.objection(letter.user_id, letter.type, self._user)
        with self._spool.transaction() as transaction:
            if objection is not None:
                counters.add(transaction, "strangers")
            elif letter.published_at is not None:
                known_time.note(transaction, letter.published_at, clock.now(), time.time())
        if objection is not None:
            letter.refuse("not_allowed", objection)
        elif inbox.take(self._spool, letter, self._heads) == "no_room":
            self._set_aside(letter)

    def _set_aside(self, letter: Delivery) -> None:
        """Have what a head sent wait for room; with enough waiting it is dropped: its sender hears what is missing."""
        if not self._set_by:
            log.warning("head_waits_for_room", type=letter.type, message_id=letter.message_id)
        for place, waiting in enumerate(self._set_by):
            if waiting.body == letter.body:  # of a link that went, most likely: it has come again
                waiting.ack()
                self._set_by[place] = letter
                return
        if len(self._set_by) < MAX_SET_BY:
            self._set_by.append(letter)
        else:
            letter.ack()
            self._dropped += 1
