"""Every type of message that this version understands."""

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1

MESSAGE_TYPES: dict[str, type[Message]] = {
    model.type_name: model for model in (SamplesV1, DenoiseV1, LatentsV1, FailedV1, RoundV1, ReceiptV1)
}
"""By their AMQP `type`."""
