"""What waits when no worker is there: in the queues as long as they have room, then on the devices."""

from broker.topology import DENOISE_MAX_BYTES, QUEUE_DENOISE, QUEUE_SAMPLES, SAMPLES_MAX_BYTES
from collafuse.plan.basis import Basis, Section
from collafuse.plan.item import Item
from collafuse.plan.nodes import WRITE_AHEAD_LOG_BYTES
from collafuse.plan.quantity import size
from collafuse.plan.traffic import HOUR_SECONDS, Stream, backlog_messages
from edge_agent.settings import EdgeSettings

_SECTION = Section("no worker")


def queued_bytes(basis: Basis, stream: Stream, limit_bytes: int) -> float:
    """Of a stream's backlog the bodies that find room in its queue."""
    return min(limit_bytes, backlog_messages(stream, basis.demand.hours_away) * stream.weight.body_bytes)


def disk_bytes(basis: Basis) -> float:
    """On a node with a member of each queue: the messages that wait, with their properties, and the write-ahead log.

    A member has the whole of its queue, so that more nodes than members leave those that have one as full as before.
    """
    traffic = basis.traffic
    waiting = 0.0
    for stream, limit in ((traffic.samples, SAMPLES_MAX_BYTES), (traffic.requests, DENOISE_MAX_BYTES)):
        whole = stream.weight.up_bytes / stream.weight.body_bytes
        waiting += queued_bytes(basis, stream, limit) * whole
    return waiting + WRITE_AHEAD_LOG_BYTES


def device_bytes(basis: Basis) -> float:
    """On each device: what the queues have no room for."""
    traffic, hours = basis.traffic, basis.demand.hours_away
    left = 0.0
    for stream, limit in ((traffic.samples, SAMPLES_MAX_BYTES), (traffic.requests, DENOISE_MAX_BYTES)):
        left += max(0.0, backlog_messages(stream, hours) * stream.weight.body_bytes - limit)
    return left / basis.demand.devices


def items(basis: Basis) -> list[Item]:
    """The lines on what waits for the workers."""
    traffic, hours, of = basis.traffic, basis.demand.hours_away, _SECTION.item
    worst = f"--hours-away {hours:g}, the worst of the day"
    found = []
    for stream, queue, limit in (
        (traffic.samples, QUEUE_SAMPLES, SAMPLES_MAX_BYTES),
        (traffic.requests, QUEUE_DENOISE, DENOISE_MAX_BYTES),
    ):
        by_second = stream.peak_per_second * stream.weight.body_bytes
        found += [
            of(
                f"messages that wait for {queue}",
                backlog_messages(stream, hours),
                "messages",
                "derived",
                worst,
            ),
            of(
                f"bytes in the queue {queue}",
                queued_bytes(basis, stream, limit),
                "bytes",
                "derived",
                f"at most {size(limit)}, then it refuses",
            ),
            of(
                f"the queue {queue} is full after",
                limit / by_second / HOUR_SECONDS if by_second else None,
                "h",
                "derived",
                "in the busiest hours; devices keep what it refuses",
            ),
        ]
    quota = f"what the queues refuse; its outbox takes {size(EdgeSettings().outbox_max_bytes)}"
    return [
        *found,
        of(
            "disk of a node for them",
            disk_bytes(basis),
            "bytes",
            "derived",
            "every member keeps all of its queue; with the write-ahead log",
        ),
        of("outbox of a device", device_bytes(basis), "bytes", "derived", quota),
    ]
