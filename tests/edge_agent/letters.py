"""Letters of the inbox without a broker, which note what was done with them."""

import uuid
from dataclasses import dataclass, field

from broker import codec
from broker.contract.message import Message


@dataclass
class Letter:
    """A delivery; `ends` says what became of it. Its body is its content's, unless it came in another state."""

    content: Message
    message_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    body: bytes = b""
    ends: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.body = self.body or codec.encode(self.content)

    @property
    def type(self) -> str:
        return self.content.type_name

    def message(self) -> Message:
        return codec.decode(self.type, self.body)

    def ack(self) -> None:
        self.ends.append("ack")

    def refuse(self, reason: str, detail: str) -> None:
        self.ends.append(f"refused {reason}")
