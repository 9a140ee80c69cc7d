"""What the server holds of a device's batch."""

from typing import ClassVar

from broker.contract.fields import Count, MessageId
from broker.contract.message import Message


class ReceiptV1(Message):
    """What the server holds of a device's batch.

    Attributes:
        batch_id: `message_id` of the samples.
        samples: how many it holds.
        duplicate: whether it held them before this delivery.
    """

    type_name: ClassVar[str] = "receipt.v1"

    batch_id: MessageId
    samples: Count
    duplicate: bool
