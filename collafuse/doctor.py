"""`collafuse doctor`: what broker is there, which limits apply, and what is unsafe about them."""

import json
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker import command
from broker.command import Directory, Json, ManagementUrl, Status, Url
from broker.inspection.facts import Facts
from broker.inspection.finding import Finding, Severity
from broker.settings import NODE_DIRECTORY, broker_settings

app = typer.Typer(add_completion=False)

UNSAFE_EXIT = 2
STYLES = {Severity.UNSAFE: "bold red", Severity.WARNING: "yellow", Severity.OK: "green"}


@app.command()
def doctor(
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Examine the broker: what it is, which limits apply, and what is unsafe; exit 2 when something is unsafe."""
    from broker.inspection.findings import judge, limits  # noqa: PLC0415  # brings httpx, as the next one does
    from broker.inspection.inspection import inspect  # noqa: PLC0415

    settings = broker_settings(url, directory)
    with Status(f"examining {settings}"):
        facts = inspect(settings, command.management_url(settings, management_url, directory))
    findings = judge(facts)
    if as_json:
        found = {
            "broker": _broker(facts),
            "limits": dict(limits(facts)),
            "findings": [asdict(finding) for finding in findings],
        }
        typer.echo(json.dumps(found))
    else:
        _print(_broker(facts), dict(limits(facts)), findings)
    if any(finding.severity is Severity.UNSAFE for finding in findings):
        raise typer.Exit(UNSAFE_EXIT)


def _broker(facts: Facts) -> dict[str, Any]:
    nodes = () if facts.managed is None else facts.managed.nodes
    return {
        "url": facts.broker,
        "version": facts.link.version,
        "erlang": facts.link.erlang,
        "cluster": facts.link.cluster,
        "encrypted": facts.link.encrypted,
        "nodes": {node.name: "running" if node.running else "not running" for node in nodes},
        "management": facts.unmanaged is None,
    }


def _print(broker: dict[str, Any], limits: dict[str, str], findings: list[Finding]) -> None:
    console = Console()
    nodes = ", ".join(f"{name} ({state})" for name, state in broker["nodes"].items()) or "unknown"
    link = "encrypted" if broker["encrypted"] else "not encrypted"
    console.print(
        Text(f"RabbitMQ {broker['version']} on {broker['erlang']}, cluster {broker['cluster']}, {link}")
    )
    console.print(Text(f"{broker['url']}, nodes: {nodes}\n"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in limits.items():
        table.add_row(Text(name), Text(value))
    console.print(table)
    console.print()
    for finding in findings:
        text = Text(f"{finding.severity:<8}", STYLES[finding.severity])
        text.append(f"{finding.subject}: {finding.what}", "default")
        if finding.do:
            text.append(f" -- {finding.do}", "default")
        console.print(text)
