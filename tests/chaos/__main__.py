"""`python -m tests.chaos`: a federation under random faults, and where everything went."""

import secrets
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.chaos.accounting import table
from tests.chaos.run import Plan, run


def main(
    seed: Annotated[int | None, typer.Option(help="Of every fault; drawn if left out.")] = None,
    seconds: Annotated[float, typer.Option(help="How long work comes in and things break.")] = Plan.seconds,
    samples: Annotated[int, typer.Option(help="Sample messages.")] = Plan.samples,
    requests: Annotated[int, typer.Option(help="Denoise requests.")] = Plan.requests,
    agents: Annotated[int, typer.Option(help="Edge agents.")] = Plan.agents,
    nodes: Annotated[int, typer.Option(help="Brokers: 1, or 3 for a cluster.")] = Plan.nodes,
    every: Annotated[float, typer.Option(help="Mean seconds between two faults.")] = Plan.every_seconds,
    keep: Annotated[
        Path | None, typer.Option(help="Keep everything, the logs too, in this new folder.")
    ] = None,
) -> None:
    """Exit 1 when anything was lost, duplicated or unexpected."""
    console = Console(highlight=False)
    plan = Plan(
        seed=secrets.randbelow(2**31) if seed is None else seed,
        seconds=seconds,
        samples=samples,
        requests=requests,
        agents=agents,
        nodes=nodes,
        every_seconds=every,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        outcome = run(plan, keep or Path(scratch) / "run", console.print)
        console.print(f"faults: {', '.join(f'{kind} {count}' for kind, count in outcome.faults.items())}")
        drained = outcome.drained_seconds
        console.print("NOT drained" if drained is None else f"drained {drained:.1f} s after the last fault")
        console.print(table(outcome.rows))
        for row in outcome.rows:
            for what in row.unexpected[:20]:
                console.print(f"unexpected: {what}", style="red")
    if drained is None or not all(row.holds for row in outcome.rows):
        console.print(f"the promises were broken; the same faults again: --seed {plan.seed}", style="red")
        raise typer.Exit(1)
    console.print("lost 0, duplicated 0, unexpected 0")


if __name__ == "__main__":
    typer.run(main)
