"""A fleet of real agents through a day of links that come and go: nothing lost, how soon all is sent, and what each one costs.

python -m benchmarks.fleet [--quick] [--json]
python -m benchmarks.fleet --plan        what collafuse plan predicts for 60 devices, beside what they do
"""

from dataclasses import dataclass, field
from typing import Annotated

import typer

from benchmarks.devices import a_node, memory_bytes
from benchmarks.fleet_plan import beside
from benchmarks.fleet_rollout import rollout
from benchmarks.report import Result, alone, emit, say
from broker.management import Management
from broker.node.local_node import LocalNode
from broker.settings import BrokerSettings
from edge_agent.fleet.account import Account
from edge_agent.fleet.links import links_of
from edge_agent.fleet.run import Devices, Outcome, Place, simulate
from edge_agent.fleet.simulation import Look, Plan
from monitoring import logs

CLIENT = "bench"
QUICK_ROLLOUT = 12
PLANNED = 60
ONE_DAY = "one day"


@dataclass(eq=False)
class Screen:
    """Tells how it goes on stderr, and weighs the broker when every device is connected and has nothing left to do."""

    local: LocalNode
    agents: int
    broker_bytes: int | None = None
    phases: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line for a person."""
        say(text)

    def enrolled(self, devices: int) -> None:
        """So many devices are enrolled."""
        if devices == self.agents:
            say(f"{devices} devices are enrolled")

    def look(self, look: Look) -> None:
        """How the fleet stands."""
        if look.phase not in self.phases:
            self.phases.append(look.phase)
            say(look.phase)
        if look.phase == "draining" and look.drained == self.agents and self.broker_bytes is None:
            self.broker_bytes = memory_bytes(self.local)


def a_day(local: LocalNode, agents: int, seconds: float, images: int) -> list[Result]:
    """Simulate one day of a fleet with mixed links."""
    node = local.status().info
    assert node is not None
    empty_bytes = memory_bytes(local)
    screen = Screen(local, agents)
    devices = Devices(links_of("mixed", agents, seed=0), images=images)
    with Management(node.management_url, node.user, node.password) as management:
        outcome = simulate(
            devices,
            Plan(seconds),
            Place(state=None, credentials=None, keep=False, name=CLIENT),
            management,
            BrokerSettings.from_url(node.amqp_url),
            screen,
        )
    own_bytes = max(0, (screen.broker_bytes or empty_bytes) - empty_bytes) / agents
    return [
        *_counts(outcome),
        *(_drain(account) for account in outcome.accounts),
        alone("broker's memory for a device, enrolled and connected", "kB", [own_bytes / 1e3], ONE_DAY),
        alone(
            f"agent's memory, one of {agents // outcome.processes} in a process",
            "kB",
            [outcome.bytes_per_agent / 1e3],
            ONE_DAY,
        ),
    ]


def _counts(outcome: Outcome) -> list[Result]:
    whole = outcome.all
    undrained = whole.devices - whole.drained_devices
    return [
        alone(f"messages lost, of {whole.attempted}", "messages", [whole.lost], ONE_DAY),
        alone(f"outboxes not empty, of {whole.devices}", "outboxes", [undrained], ONE_DAY),
        alone("letters that came again, and were recognised", "letters", [whole.duplicated], ONE_DAY),
    ]


def _drain(account: Account) -> Result:
    slowest, middle = account.longest_drain_seconds, account.median_drain_seconds
    return alone(
        f"links {account.link}: all sent and receipted after opening",
        "s",
        [float("inf") if slowest is None else slowest],
        f"half of {account.devices} within {'?' if middle is None else middle} s",
    )


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer devices; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    agents: Annotated[int, typer.Option(help="Devices of a full run.")] = 500,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only what the planner predicts, beside what is measured.")
    ] = False,
) -> None:
    """A day of a fleet. Nothing may be lost, and every outbox has to be empty at the end."""
    logs.configure("benchmark", level="warning")
    if plan:
        with a_node() as local:
            found = beside(local, PLANNED, seconds=10.0, images=20)
        emit("fleet", found, as_json=as_json, quick=True, links="always", day="10 s")
        return
    number, seconds, images = (60, 10.0, 3) if quick else (agents, 90.0, 6)
    with a_node() as local:
        results = [
            *a_day(local, number, seconds, images),
            *rollout(local, 1, processes=1),
            *rollout(local, QUICK_ROLLOUT if quick else number, processes=2 if quick else 4),
        ]
    emit("fleet", results, as_json=as_json, quick=quick, links="a quarter each", day=f"{seconds:g} s")
    if any(result.unit in {"messages", "outboxes", "devices"} and result.ours for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
