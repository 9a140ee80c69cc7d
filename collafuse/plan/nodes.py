"""The broker: what its nodes have to hold and to move, and how many of them that takes."""

import math
from dataclasses import dataclass

from broker.topology import FEDERATION
from collafuse.plan.basis import Basis, Section
from collafuse.plan.errors import PlanRefused
from collafuse.plan.item import Item
from collafuse.plan.quantity import share
from collafuse.plan.traffic import Stream

WATERMARK = 0.4
"""Of its memory a node takes so much before it blocks publishers: RabbitMQ 3's default; newer ones may take more."""

WRITE_AHEAD_LOG_BYTES = 512 * 2**20
"""RabbitMQ's default for the log that the quorum queues of a node share; its documentation asks for three of them in memory."""

_SECTION = Section("broker")
_PUBLISHED = "benchmark publish, one node, publisher on the same machine"


@dataclass(frozen=True)
class Nodes:
    """How many broker nodes, each reason for itself.

    members: of a work queue.  memory_bytes: of all devices together.  busy: of one node, its share of the busiest second if it
    did everything alone; busiest_queue: the same for the one queue that has most to do, which no further node relieves.
    """

    members: int
    for_memory: int
    for_messages: int
    for_link: int
    memory_bytes: float
    busy: float
    busiest_queue: float

    @property
    def count(self) -> int:
        """So many are needed for all of it."""
        return max(self.members, self.for_memory, self.for_messages, self.for_link)


def nodes_of(basis: Basis) -> Nodes:
    """How many nodes a demand takes. Raises PlanRefused when a node is too small to hold anything."""
    demand, traffic = basis.demand, basis.traffic
    memory_bytes = demand.devices * bytes_per_device(basis)
    room_bytes = demand.node_memory_gb * 1e9 * WATERMARK - 3 * WRITE_AHEAD_LOG_BYTES
    if room_bytes <= 0:
        raise PlanRefused(
            f"--node-memory-gb: {demand.node_memory_gb:g} GB leave RabbitMQ no room beside its write-ahead log: take 5 or more"
        )
    work = [_busy(basis, stream) * demand.members for stream in (traffic.samples, traffic.requests)]
    rest = [
        _busy(basis, stream)
        for stream in traffic.streams
        if stream not in (traffic.samples, traffic.requests)
    ]
    link_bytes = demand.node_link_gbit * 1e9 / 8 * demand.utilisation
    busy = sum(work) + sum(rest)
    return Nodes(
        members=demand.members,
        for_memory=math.ceil(memory_bytes / room_bytes),
        for_messages=math.ceil(busy / demand.utilisation),
        for_link=math.ceil(sent_bytes_per_second(basis) / link_bytes),
        memory_bytes=memory_bytes,
        busy=busy,
        busiest_queue=max(work),
    )


def sent_bytes_per_second(basis: Basis) -> float:
    """What all nodes together send in the busiest hour: to the devices, to the workers, and to the further members of the queues.

    They take in no more than that, for a round comes in once and goes to every device.
    """
    traffic = basis.traffic
    queued = traffic.samples.up_bytes_per_second + traffic.requests.up_bytes_per_second
    copies = queued * (basis.demand.members - 1)
    return traffic.down_bytes_per_second + traffic.up_bytes_per_second + copies


def bytes_per_device(basis: Basis) -> float:
    """What one device costs the broker's memory, in the mean of those connected and those not."""
    idle = basis.figures["enrolled_kilobytes"].value * 1e3
    connected = basis.figures["working_kilobytes"].value * 1e3
    return idle + basis.demand.connected_share * max(0.0, connected - idle)


def return_seconds(basis: Basis, nodes: int) -> float:
    """Until all devices are connected again after an outage: their own waits, or what the nodes let in, whichever is longer."""
    connections = basis.demand.devices * basis.demand.connected_share
    return max(
        basis.figures["return_seconds"].value, connections / (basis.figures.connections_per_second * nodes)
    )


def items(basis: Basis, nodes: Nodes) -> list[Item]:
    """The lines on the broker."""
    demand, of = basis.demand, _SECTION.item
    connections = math.ceil(demand.devices * demand.connected_share)
    per_node = math.ceil(connections / nodes.count)
    memory = basis.figures["working_kilobytes"].source
    back = basis.figures["return_seconds"].source
    enrolling = basis.figures["enrolling_milliseconds"]
    return [
        of(
            "broker nodes",
            nodes.count,
            "nodes",
            "derived",
            f"the most of the next four, at {share(demand.utilisation)} of capacity",
        ),
        of("nodes for the queues' members", nodes.members, "nodes", "given", "--replication"),
        of(
            "nodes for memory",
            nodes.for_memory,
            "nodes",
            "derived",
            f"{share(WATERMARK)} of --node-memory-gb, less 3 write-ahead logs",
        ),
        of("nodes for messages", nodes.for_messages, "nodes", "derived", _PUBLISHED),
        of(
            "nodes for the link",
            nodes.for_link,
            "nodes",
            "derived",
            "--node-link-gbit: to devices, to workers, and to the queues' members",
        ),
        of("memory of all devices", nodes.memory_bytes, "bytes", "derived", f"{memory}; --connected-share"),
        of(
            "queues",
            len(FEDERATION.queues) + demand.devices,
            "queues",
            "derived",
            "the federation's, and an inbox for each device",
        ),
        of("connections", connections, "connections", "derived", "one for each connected device"),
        of("connections of a node", per_node, "connections", "derived", "each of them a file descriptor"),
        of(
            "busiest queue, of its node",
            nodes.busiest_queue,
            "of 1",
            "derived",
            f"{_PUBLISHED}, times its members",
        ),
        of(
            "all are back after an outage",
            return_seconds(basis, nodes.count),
            "s",
            "derived",
            f"devices' own waits, or as fast as nodes let them in; {back}",
        ),
        of("enrolling all devices", demand.devices * enrolling.value / 1e3, "s", "derived", enrolling.source),
    ]


def _busy(basis: Basis, stream: Stream) -> float:
    """Seconds that a node spends on a stream in a second of the busiest hour."""
    parts = basis.sizes.answer_parts if stream is basis.traffic.answers else 1
    seconds = parts * basis.figures.publish_seconds(stream.weight.body_bytes / parts)
    return stream.peak_per_second * seconds
