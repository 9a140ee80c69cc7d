"""`collafuse plan`: what a fleet takes, from what was measured; `collafuse plan privacy`: what a promise takes."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from broker.options import options_of
from collafuse.plan.demand import Demand
from collafuse.plan.errors import PlanRefused
from collafuse.plan.privacy import PrivacyQuestion

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback(invoke_without_command=True)
@options_of(Demand, with_seconds=True)
def plan(ctx: typer.Context, as_json: AsJson = False, **flags: Any) -> None:
    """Reckon what a fleet takes: broker nodes, bandwidth, backlog, denoise workers, storage, metrics and, at your prices, cost.

    The figures it starts from were measured by the project's benchmarks; each line says where its number comes from.
    """
    if ctx.invoked_subcommand is not None:
        given = [name for name, value in flags.items() if value is not None]
        if given or as_json:
            flag = "--" + (given[0].replace("_", "-") if given else "json")
            raise PlanRefused(
                f"{flag} stands before `{ctx.invoked_subcommand}`: give that command's own options after it"
            )
        return
    from rich.console import Console

    from collafuse.plan.estimate import estimate
    from collafuse.plan.table import show

    demand = Demand.of(**flags)
    made = estimate(demand)
    if as_json:
        print(json.dumps({"demand": demand.model_dump(), **asdict(made)}))
    else:
        show(made, Console())


@app.command()
@options_of(PrivacyQuestion)
def privacy(as_json: AsJson = False, **flags: Any) -> None:
    """Find the earliest cut at which releases cost no more than --epsilon, and say what that promises, if anything.

    It is what the ledger of a device will count: exact, for the worst pair of images.
    """
    from rich.console import Console

    from collafuse.plan.privacy import plan_privacy
    from collafuse.plan.privacy_words import show_privacy

    question = PrivacyQuestion.of(**flags)
    made = plan_privacy(question)
    if as_json:
        print(json.dumps({"question": question.model_dump(), **asdict(made)}))
    else:
        show_privacy(question, made, Console())
