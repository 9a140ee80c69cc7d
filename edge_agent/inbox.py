"""What arrives for this device: kept in the spool first, acknowledged then, and recognised when it comes again."""

import sqlite3
import time
from typing import Literal, Protocol

import structlog

from broker import codec
from broker.contract.denoise import FailedV1, LatentsV1
from broker.contract.heads import BundleV1, ChunkV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.errors import Refused
from edge_agent.errors import SpoolFull
from edge_agent.generation import jobs, latents, pool_requests
from edge_agent.link import contract
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

REMEMBERED_IDS = 50_000
"""Ids kept to recognise a repeat; far more than a broker can deliver twice."""

_OF_BUNDLES: tuple[counters.Name, counters.Name] = ("head_announcements", "head_announcements_declined")
_OF_CHUNKS: tuple[counters.Name, counters.Name] = ("head_chunks", "head_chunks_declined")

Outcome = Literal["kept", "duplicate", "late", "refused", "job_failed", "stock_failed", "no_room"]
_COUNTED: dict[Outcome, counters.Name] = {"late": "late", "duplicate": "duplicate"}


class Letter(Protocol):
    """What is used of a `broker.consumer.Delivery`."""

    @property
    def body(self) -> bytes:
        """The message as it came."""

    @property
    def type(self) -> str:
        """`name.vN`."""

    @property
    def message_id(self) -> str:
        """Recognises a repeat; may be empty."""

    def message(self) -> Message:
        """What is inside; raises Refused."""

    def ack(self) -> None:
        """Tell the broker to forget it."""

    def refuse(self, reason: str, detail: str) -> None:
        """Set it aside with the reason."""


class HeadDesk(Protocol):
    """Who deals with heads on their way; see `edge_agent.heads.arrivals`."""

    def announced(self, transaction: sqlite3.Connection, message: BundleV1) -> bool:
        """Judge an announcement; whether the bundle is received from now on."""

    def chunk(self, transaction: sqlite3.Connection, message: ChunkV1) -> bool:
        """Keep a piece; whether it was of use."""


def take(spool: Spool, letter: Letter, heads: HeadDesk | None = None) -> Outcome:
    """Deal with one message of the inbox, and acknowledge it when that is durable.

    heads: deals with heads and their pieces; without one, a device has no use for them.

    A message that makes no sense is refused with its reason, and the inbox moves on. When the spool cannot be written, SpoolError
    is raised and nothing is acknowledged: the message is to be taken again. So it is with "no_room", which is said of a head's
    announcement or piece on a full disk: answers are smaller and may find room, so they need not wait behind it.
    """
    try:
        message = letter.message()
    except Refused as error:
        letter.refuse(error.reason, error.detail)
        return "refused"
    if isinstance(message, BundleV1 | ChunkV1) and heads is not None:
        try:
            outcome = _take_head(spool, message, heads)
        except SpoolFull:
            return "no_room"
        letter.ack()
        return outcome
    with spool.transaction() as transaction:
        outcome = _take(transaction, letter, message)
        job_id = latents.job_of(transaction, message) if isinstance(message, LatentsV1) else None
        # A round is announced again and again, for those who were away: hearing it twice says nothing.
        counter = _COUNTED.get(outcome)
        if counter is not None and not isinstance(message, RoundV1):
            counters.add(transaction, counter)
    if outcome == "refused":
        letter.refuse("not_for_devices", f"a device has no use for a {letter.type}")
        return outcome
    letter.ack()
    if isinstance(message, LatentsV1) and outcome == "kept":
        _tell(message, job_id)
    log.debug("inbox_message", type=letter.type, message_id=letter.message_id, outcome=outcome)
    return outcome


def _tell(message: LatentsV1, job_id: str | None) -> None:
    """Log a part of an answer once it is durable; of one for the stock there is no job."""
    log.info(
        "part_received",
        request_id=message.request_id,
        job_id=job_id,
        first=message.first,
        samples=len(message.x),
        version=message.backbone_version,
    )


def _take_head(spool: Spool, message: BundleV1 | ChunkV1, heads: HeadDesk) -> Outcome:
    """Hand a head's announcement or piece over; its sender may repeat both."""
    taken, declined = _OF_BUNDLES if isinstance(message, BundleV1) else _OF_CHUNKS
    with spool.transaction() as transaction:
        wanted = (
            heads.announced(transaction, message)
            if isinstance(message, BundleV1)
            else heads.chunk(transaction, message)
        )
        counters.add(transaction, taken if wanted else declined)
    return "kept" if wanted else "late"


def _take(transaction: sqlite3.Connection, letter: Letter, message: Message) -> Outcome:
    if not _remember(transaction, letter):
        return "duplicate"
    match message:
        case LatentsV1():
            return _take_latents(transaction, message)
        case FailedV1():
            return _take_failure(transaction, message)
        case RoundV1():
            return _take_round(transaction, message)
        case ReceiptV1():
            return _take_receipt(transaction, message)
        case _:
            return "refused"


def _remember(transaction: sqlite3.Connection, letter: Letter) -> bool:
    """Write the message's id down; False when it was there."""
    message_id = letter.message_id or codec.digest(letter.type.encode() + b"|" + letter.body)
    added = transaction.execute(
        "INSERT OR IGNORE INTO inbox (message_id, type, received_at) VALUES (?, ?, ?)",
        (message_id, letter.type, time.time()),
    )
    if added.rowcount == 0:
        return False
    transaction.execute("DELETE FROM inbox WHERE sequence <= ?", ((added.lastrowid or 0) - REMEMBERED_IDS,))
    return True


def _take_round(transaction: sqlite3.Connection, message: RoundV1) -> Outcome:
    if not contract.store(transaction, message):
        return "late"
    pool_requests.hear_version(transaction, message.backbone_version)
    return "kept"


def _take_latents(transaction: sqlite3.Connection, message: LatentsV1) -> Outcome:
    question = latents.asked(transaction, message.request_id)
    if question is None:
        return _take_for_stock(transaction, message)
    problem = latents.mismatch(message, question)
    if problem is not None:
        log.warning("result_mismatch", job_id=question.job_id, request_id=message.request_id, error=problem)
        jobs.end(transaction, question.job_id, "failed", reason="wrong_result", detail=problem)
        return "job_failed"
    pool_requests.hear_version(transaction, message.backbone_version)
    whole = latents.store(transaction, message, question) == "whole"
    jobs.move(transaction, question.job_id, "finishing" if whole else "partial")
    return "kept"


def _take_for_stock(transaction: sqlite3.Connection, message: LatentsV1) -> Outcome:
    outcome = pool_requests.take_answer(transaction, message)
    if outcome == "late":
        log.info("late_result", request_id=message.request_id)
    else:
        pool_requests.hear_version(transaction, message.backbone_version)
    return outcome


def _take_failure(transaction: sqlite3.Connection, message: FailedV1) -> Outcome:
    question = latents.asked(transaction, message.request_id)
    if question is None:
        return pool_requests.take_failure(transaction, message)
    log.warning(
        "job_failed",
        job_id=question.job_id,
        request_id=message.request_id,
        reason=message.reason,
        error=message.detail,
    )
    jobs.end(transaction, question.job_id, "failed", reason=message.reason, detail=message.detail)
    return "job_failed"


def _take_receipt(transaction: sqlite3.Connection, message: ReceiptV1) -> Outcome:
    transaction.execute(
        "INSERT INTO receipts (batch_id, samples, duplicates, received_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (batch_id) DO UPDATE SET duplicates = duplicates + 1",
        (message.batch_id, message.samples, int(message.duplicate), time.time()),
    )
    return "kept"
