"""`collafuse demo`: the whole path on one machine, in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Where report, summary and all state of the run go.")
    ] = Path("demo_out"),
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Train hardly at all: about a minute, and nobody can read the digits."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON at the end.")] = False,
) -> None:
    """Train one split diffusion model across three clients here, through a private RabbitMQ, and report what came of it."""
    import signal

    from rich.console import Console

    from collafuse.demo.design import Design
    from collafuse.demo.run import run
    from collafuse.demo.words import in_words
    from evaluation.reporting.narrator import Narrator
    from monitoring.logs import configure

    configure("demo", level="warning")

    # Both end the demo in the same way, also where the shell started it in the background: everything it started goes first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with Narrator(Console(stderr=True)) as narrator:
        report, summary, result = run(Design.quick() if quick else Design(), out, narrator)
    if json:
        print(summary.read_text())
    else:
        print(in_words(result))
    Console(stderr=True).print(f"report  {report}\nsummary {summary}", highlight=False, soft_wrap=True)
