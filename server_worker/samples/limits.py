"""How much is kept, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreLimits:
    """What an operator set; None for no limit.

    max_bytes: of all segments together; above it nothing is taken until there is room.
    client_max_bytes: of the tensors of one client; above it the client's batches are refused.
    retention_days: batches stored longer ago are erased.
    """

    max_bytes: int | None = None
    client_max_bytes: int | None = None
    retention_days: float | None = None
