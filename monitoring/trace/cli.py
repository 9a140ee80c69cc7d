"""`collafuse trace`: one image followed through the logs of device and server."""

import json
import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def trace(
    wanted: Annotated[
        str, typer.Argument(metavar="ID", help="A job's id, as the device gave it; or a request's.")
    ],
    logs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LOG", help="Files of JSON lines, packed with gzip or not; - or nothing for stdin."
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            "--otlp",
            metavar="URL",
            help="Send it as OpenTelemetry spans, too, to the OTLP/HTTP receiver at URL, such as"
            " http://127.0.0.1:4318/v1/traces.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Follow one image from the app's request to its end, through the logs of its device and of the denoise workers.

    Lines may have the prefix of `docker compose logs` or of `journalctl`; what is no JSON line of ours is passed over.
    """
    from rich.console import Console

    from monitoring.trace import table
    from monitoring.trace.log_reader import STDIN, find
    from monitoring.trace.timeline import timeline

    if not logs and (sys.stdin is None or sys.stdin.isatty()):
        raise typer.BadParameter(
            "name log files, or pipe a log into it: docker compose logs | collafuse trace ID"
        )
    if otlp is not None:
        from monitoring.trace.spans import send  # fails at once where the extra is not there
    found = timeline(find(wanted.lower(), logs or [STDIN]))
    if as_json:
        print(json.dumps(table.as_object(found)))
    else:
        table.show(found, Console())
    if otlp is not None:
        print(f"sent {send(found, otlp)} spans to {otlp}", file=sys.stderr)
