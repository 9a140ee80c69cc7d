"""Every error of the broker's room, and what becomes of the work when one is raised.

`Refused` means the message itself is at fault and is dead-lettered; a `PublishFailed` or `BrokerUnreachable` says nothing about
the message, which is kept and tried again; everything else stops the command with one line.
"""

from concurrent.futures import Future
from typing import ClassVar

from monitoring.errors import CollafuseError, Disposition


class BrokerError(CollafuseError):
    """The root of the tree."""


class ConfigError(BrokerError):
    """A setting is missing, unknown or malformed."""


class InvalidName(BrokerError, ValueError):
    """A client or device name that must not become part of a routing key or permission pattern."""


class Refused(BrokerError):
    """A message that will not be taken: it goes to the dead-letter queue, and the queue moves on.

    Attributes:
        reason: a stable code of lowercase words and underscores, used as a metric label and a header.
        detail: one short line for a person; never carries the payload.
    """

    disposition = Disposition.DEAD_LETTER

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class MessageTooLarge(BrokerError, ValueError):
    """A message of ours would exceed the largest body: the sender has to split it along N."""


class BrokerUnreachable(BrokerError):
    """No connection to the broker within the time given."""

    disposition = Disposition.RETRY


class PublishFailed(BrokerError):
    """The broker did not take responsibility for a message; the sender still has it.

    `reason` is a stable code for metrics.
    """

    disposition = Disposition.RETRY
    reason: ClassVar[str] = "publish_failed"


class Unroutable(PublishFailed):
    """The broker returned the message: no queue is bound for its routing key."""

    reason = "unroutable"


class Nacked(PublishFailed):
    """The broker refused the message, as a full queue does."""

    reason = "nacked"


class ConnectionLost(PublishFailed):
    """The connection ended before the confirm: the message may or may not have arrived."""

    reason = "connection_lost"


class ConfirmTimeout(PublishFailed):
    """The confirm did not come in time: the message may or may not have arrived.

    `answer` ends as the message ends after all, with its confirm, a refusal or the loss of the link; None when it was not sent.
    """

    reason = "confirm_timeout"

    def __init__(self, message: str, answer: "Future[None] | None" = None) -> None:
        super().__init__(message)
        self.answer = answer


class Blocked(ConfirmTimeout):
    """The broker is in a memory or disk alarm and takes no messages for now."""

    reason = "blocked"


class TopologyMismatch(BrokerError):
    """A queue or exchange of ours exists on the broker with other arguments."""


class ManagementError(BrokerError):
    """The management API refused a call or could not be reached."""


class AlreadyEnrolled(BrokerError):
    """A user of this name exists; its password is changed only when asked for."""


class NotEnrolled(BrokerError):
    """There is no such device, or no such owner."""


class CertificateError(BrokerError):
    """An authority or a certificate cannot be made, read or used."""


class NodeError(BrokerError):
    """The private RabbitMQ node could not be started, found or stopped."""
