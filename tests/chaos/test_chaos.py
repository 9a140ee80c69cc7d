"""The promises under random faults: on one broker, and on three of which the leader is killed. `make chaos` does more of it."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.chaos.accounting import table
from tests.chaos.run import Outcome, Plan, run


def show(outcome: Outcome, plan: Plan) -> None:
    console = Console(width=160)
    console.print(f"seed {plan.seed}, faults {outcome.faults}, drained after {outcome.drained_seconds}")
    console.print(table(outcome.rows))


@pytest.mark.parametrize("nodes", [1, 3])
def test_nothing_is_lost_and_nothing_doubled_whatever_is_killed(tmp_path: Path, nodes: int) -> None:
    plan = Plan(
        seed=20_261_121 + nodes,
        seconds=30.0,
        samples=3_000 if nodes == 1 else 2_000,
        requests=300 if nodes == 1 else 200,
        agents=8,
        nodes=nodes,
        kill_leader_at=0.4 if nodes > 1 else None,
        drain_seconds=600.0,
        least_faults=8 if nodes == 1 else 4,
    )
    said: list[str] = []

    outcome = run(plan, tmp_path / "run", said.append)

    show(outcome, plan)
    assert outcome.drained_seconds is not None, "\n".join(said)
    samples, requests = outcome.rows
    assert (samples.attempted, requests.attempted) == (plan.samples, plan.requests)
    assert [row.unexpected for row in outcome.rows] == [[], []], "\n".join(said)
    assert [(row.lost, row.duplicated) for row in outcome.rows] == [(0, 0), (0, 0)], "\n".join(said)
    assert samples.stored + samples.dead_lettered == plan.samples
    # On a busy machine each restart of a broker takes seconds, and less breaks in the same time.
    assert sum(outcome.faults.values()) >= plan.least_faults
    if nodes > 1:
        assert any("leader" in line for line in said)
