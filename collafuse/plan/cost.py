"""What it costs a month, as far as prices were given; none is assumed."""

from collafuse.plan.basis import Basis, Section
from collafuse.plan.item import Item
from collafuse.plan.traffic import DAY_SECONDS, Stream

MONTH_DAYS = 30.0
_SECTION = Section("cost a month")


def month_bytes(streams: tuple[Stream, ...]) -> float:
    """All that passes between devices and broker in a month, both ways."""
    mean = sum(
        stream.mean_per_second * (stream.weight.up_bytes + stream.weight.down_bytes) for stream in streams
    )
    return mean * DAY_SECONDS * MONTH_DAYS


def items(basis: Basis, nodes: int, workers: int | None, stored_bytes: float) -> list[Item]:
    """A line for each price that was given, and their sum; nothing where none was."""
    demand = basis.demand
    # A rollout is not of every month; what it costs once is in the section on traffic.
    streams = tuple(stream for stream in basis.traffic.streams if stream is not basis.traffic.rollout)
    amounts = (
        ("broker nodes", "--node-price", demand.node_price, nodes),
        ("denoise workers", "--worker-price", demand.worker_price, workers),
        ("stored GB", "--storage-price", demand.storage_price, stored_bytes / 1e9),
        ("GB of traffic", "--traffic-price", demand.traffic_price, month_bytes(streams) / 1e9),
    )
    found = [
        _SECTION.item(
            name,
            None if amount is None else price * amount,
            "of your currency",
            "derived",
            f"{flag} {price:g}, times {'an unknown number' if amount is None else f'{amount:,.0f}'}",
        )
        for name, flag, price, amount in amounts
        if price is not None
    ]
    if not found:
        return []
    known = [item.value for item in found if item.value is not None]
    total = sum(known) if len(known) == len(found) else None
    return [*found, _SECTION.item("all of these", total, "of your currency", "derived", "their sum")]
