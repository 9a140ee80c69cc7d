"""Every type of message that this version understands."""

from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.heads import BundleV1, ChunkV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from broker.contract.telemetry import TelemetryV1

_MODELS = (SamplesV1, DenoiseV1, LatentsV1, FailedV1, RoundV1, ReceiptV1, BundleV1, ChunkV1, TelemetryV1)

MESSAGE_TYPES: dict[str, type[Message]] = {model.type_name: model for model in _MODELS}
"""By their AMQP `type`."""
