"""`collafuse plan`: what a fleet takes, from what was measured."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from broker.options import options_of
from collafuse.plan.demand import Demand

app = typer.Typer()


@app.command()
@options_of(Demand, with_seconds=True)
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False, **flags: Any
) -> None:
    """Reckon what a fleet takes: broker nodes, bandwidth, backlog, denoise workers, storage, metrics and, at your prices, cost.

    The figures it starts from were measured by the project's benchmarks; each line says where its number comes from.
    """
    from rich.console import Console

    from collafuse.plan.estimate import estimate
    from collafuse.plan.table import show

    demand = Demand.of(**flags)
    made = estimate(demand)
    if as_json:
        print(json.dumps({"demand": demand.model_dump(), **asdict(made)}))
    else:
        show(made, Console())
