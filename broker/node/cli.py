"""`collafuse broker node`: a private RabbitMQ node on this machine."""

import json
from typing import Annotated

import typer

from broker.command import Directory, Json, Status, declare_on
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import NODE_DIRECTORY, BrokerSettings

app = typer.Typer(help="A private RabbitMQ node on this machine.", no_args_is_help=True)


@app.command("start")
def start(
    directory: Directory = NODE_DIRECTORY,
    new_ports: Annotated[
        bool, typer.Option("--new-ports", help="Choose other ports than last time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the private node, or find it running, and declare the queues on it."""
    with Status("starting a private RabbitMQ") as show:
        info = LocalNode(directory).start(show.update_text, new_ports=new_ports)
        show.update_text("declaring the queues")
        declare_on(BrokerSettings.from_url(info.amqp_url))
    _print_node("running", info, as_json)


@app.command("stop")
def stop(directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Stop the private node; its data stays."""
    with Status("stopping the private RabbitMQ"):
        stopped = LocalNode(directory).stop()
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print(f"the node in {directory} was stopped" if stopped else f"no node runs in {directory}")


@app.command("status")
def status(directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Say whether the private node runs, and where; exit 3 when it does not."""
    found = LocalNode(directory).status()
    _print_node(found.state, found.info, as_json)
    if found.info is None:
        raise typer.Exit(3)


@app.command("ctl", context_settings={"ignore_unknown_options": True})
def ctl(
    arguments: Annotated[
        list[str], typer.Argument(help="As for rabbitmqctl: `list_queues --vhost collafuse name messages`.")
    ],
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Run rabbitmqctl on the private node, which no other rabbitmqctl finds."""
    print(LocalNode(directory).control(*arguments), end="")


def _print_node(state: str, info: NodeInfo | None, as_json: bool) -> None:
    found = (
        {}
        if info is None
        else {
            "directory": str(info.directory),
            "amqp": f"127.0.0.1:{info.ports.amqp}",
            "vhost": info.vhost,
            "management_url": info.management_url,
            "prometheus_url": info.prometheus_url,
            "pid": info.pid,
            "credentials": str(info.directory / "node.json"),
        }
    )
    if as_json:
        print(json.dumps({"state": state} | found))
        return
    print(f"state: {state}")
    for name, value in found.items():
        print(f"{name}: {value}")
