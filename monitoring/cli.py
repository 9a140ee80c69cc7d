"""`collafuse monitor`: the exporter of the broker's queues, the catalogue of every metric, and the dashboards."""

import json
import signal
import ssl
import threading
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import CollectorRegistry

from broker.errors import ConfigError
from broker.management import Management
from broker.node.local_node import find
from monitoring import logs
from monitoring.catalogue import as_markdown, catalogue
from monitoring.dashboards import collection
from monitoring.endpoints import serve
from monitoring.exporter import BrokerCollector
from monitoring.settings import MonitorSettings

MANAGEMENT_TIMEOUT_SECONDS = 5.0
"""Well below Prometheus' scrape timeout, so that a broker that hangs is reported as down instead of not at all."""

app = typer.Typer(help="Metrics of the broker's queues for Prometheus.", no_args_is_help=True)

_log = structlog.get_logger(__name__)


@app.command()
def exporter(
    *,
    management_url: Annotated[
        str | None,
        typer.Option(
            "--management-url",
            help="http(s)://user:password@host:port; the private node if left out. A command line is not secret:"
            " better in the environment (COLLAFUSE_MONITOR_MANAGEMENT_URL) or in --config.",
        ),
    ] = None,
    vhost: Annotated[str | None, typer.Option("--vhost", help="The federation's virtual host.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of /metrics; 0 for any free one.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Interface of /metrics.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with these settings.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve depth, age and consumers of the queues at /metrics until told to stop."""
    logs.configure("exporter", level=log_level)
    settings = MonitorSettings.load(
        config, management_url=management_url, vhost=vhost, port=port, address=address
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _management(settings) as management:
        registry = CollectorRegistry()
        registry.register(BrokerCollector(partial(management.queues, settings.vhost)))
        server = serve(registry, settings.port, settings.address)
        _log.info(
            "exporter_started",
            address=server.address,
            port=server.port,
            management=management.url,
            vhost=settings.vhost,
        )
        stop.wait()
        server.close()
        _log.info("exporter_stopped")


@app.command()
def metrics(as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False) -> None:
    """Print the catalogue of every metric that some process serves."""
    if as_json:
        print(json.dumps([asdict(metric) for metric in catalogue()], ensure_ascii=False, indent=1))
    else:
        print(as_markdown(), end="")


@app.command()
def dashboards(
    folder: Annotated[Path, typer.Argument(help="An existing folder; every dashboard becomes a file there.")],
) -> None:
    """Write the Grafana dashboards; the repository keeps them in monitoring/grafana/dashboards."""
    for path in collection.write(folder):
        print(path)


def _management(settings: MonitorSettings) -> Management:
    given = settings.management()
    if given is not None:
        url, user, password = given
        # None: by the system's authorities.
        tls = None if settings.broker_ca is None else ssl.create_default_context(cadata=settings.broker_ca)
        return Management(
            url, user, password.get_secret_value(), tls=tls, timeout_seconds=MANAGEMENT_TIMEOUT_SECONDS
        )
    node = find(settings.node_directory)
    if node is None:
        raise ConfigError(
            "no broker to watch: set COLLAFUSE_MONITOR_MANAGEMENT_URL to http://user:password@host:15672,"
            " or start a private node with `collafuse broker node start`"
        )
    return Management(
        node.management_url, node.user, node.password, timeout_seconds=MANAGEMENT_TIMEOUT_SECONDS
    )
