"""What `collafuse plan` predicts for a small fleet, beside what that fleet then does."""

from dataclasses import dataclass, field

from benchmarks.report import Result
from broker.depth import depth
from broker.management import Management
from broker.node.local_node import LocalNode
from broker.settings import BrokerSettings
from broker.topology import QUEUE_TELEMETRY
from collafuse.plan.basis import Basis
from collafuse.plan.demand import Demand
from collafuse.plan.figures import kept
from edge_agent.fleet.links import links_of
from edge_agent.fleet.run import Devices, Place, simulate
from edge_agent.fleet.simulation import Look, Plan

CLIENT = "planned"
PREDICTION = "predicted by collafuse plan"


@dataclass(eq=False)
class _Scales:
    """Counts the bytes of every connection, once, when all is sent and every device is still there."""

    local: LocalNode
    agents: int
    up_bytes: int = 0
    down_bytes: int = 0
    phases: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Nobody listens."""

    def enrolled(self, devices: int) -> None:
        """Nor here."""

    def look(self, look: Look) -> None:
        """How the fleet stands."""
        if look.phase == "draining" and look.drained == self.agents and not self.up_bytes:
            self.up_bytes, self.down_bytes = _on_the_link(self.local)


def beside(local: LocalNode, agents: int, seconds: float, images: int) -> list[Result]:
    """Run a fleet whose links always stand, each image in a message of its own, and tell what was predicted as the rival.

    A ratio above 1 is a prediction that is on the safe side. Memory is not among them: of so few devices it is the node's own
    noise; what the plan reckons with was measured with hundreds.
    """
    node = local.status().info
    assert node is not None
    operator = BrokerSettings.from_url(node.amqp_url)
    scales = _Scales(local, agents)
    devices = Devices(links_of("always", agents, seed=0), images=images)
    place = Place(state=None, credentials=None, keep=False, name=CLIENT)
    with Management(node.management_url, node.user, node.password) as management:
        simulate(devices, Plan(seconds), place, management, operator, scales)
    told = depth(operator, QUEUE_TELEMETRY)
    reports = 0 if told is None else told.messages
    predicted = _predicted(agents, images, reports)
    measured = (scales.up_bytes, scales.down_bytes)
    names = ("bytes from the devices", "bytes to the devices")
    return [
        Result(name, "bytes", found, PREDICTION, wanted, wanted / found, None, f"{agents} devices, one day")
        for name, found, wanted in zip(names, measured, predicted, strict=True)
    ]


def _predicted(agents: int, images: int, reports: int) -> tuple[float, float]:
    """Bytes up and bytes down; `reports` came in such a short day, which the plan counts by the clock."""
    demand = Demand(
        devices=agents, images_per_day=0, samples_per_day=images, batch=1, channels=1, image_size=8
    )
    basis = Basis.of(demand, kept())
    sizes = basis.sizes
    batches = agents * images
    up = batches * (sizes.samples.up_bytes + sizes.receipt.up_bytes) + reports * sizes.telemetry.up_bytes
    down = (
        batches * (sizes.samples.down_bytes + sizes.receipt.down_bytes) + reports * sizes.telemetry.down_bytes
    )
    return float(up), float(down)


def _on_the_link(local: LocalNode) -> tuple[int, int]:
    """What the broker has received from and sent to the devices that are connected now, in bytes."""
    up = down = 0
    listed = local.control("list_connections", "--no-table-headers", "user", "recv_oct", "send_oct")
    for line in listed.splitlines():
        user, received, sent = line.split("\t")
        if user.startswith(CLIENT):
            up += int(received)
            down += int(sent)
    return up, down
