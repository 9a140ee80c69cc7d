"""What every message of the contract is: a frozen model that is valid by construction.

Sender and receiver build the same classes, so what one may say is exactly what the other takes. Fields are checked strictly (no
coercion) and against each other; arrays are finite, little-endian, C-contiguous and read-only. The wire form is `broker.codec`'s.

Invalid arguments raise `pydantic.ValidationError` (a `ValueError`) whose text never contains the values.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A map within a message, with fields of its own."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Message(BaseModel):
    """What every message of the contract has in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )
    type_name: ClassVar[str]
    """The AMQP `type` property: `name.vN`."""
    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first version of a type: while they are None they are left out of the body, so that a program
    that does not know them takes it."""

    def on_wire(self) -> dict[str, Any]:
        """The fields as a body names them."""
        return {
            name: dict(value) if isinstance(value, Part) else value
            for name, value in self
            if value is not None or name not in self.later_fields
        }

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(value, getattr(other, name)) for name, value in self)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Shows arrays by dtype and shape, bytes by their number: a message in a log line must not carry its tensors."""
        for name, value in self:
            yield name, _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value


def _same(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and left == right
