"""`collafuse monitor`: the exporter of the broker's queues and the fleet, the catalogue of every metric, and the dashboards."""

import json
import signal
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.errors import ConfigError
from broker.management import Management
from broker.node.ending import how_to_find_a_broker
from broker.node.local_node import find
from broker.node_metrics import NodeMetrics
from broker.shown_certificate import ends_at
from monitoring import logs
from monitoring.catalogue import as_markdown, catalogue
from monitoring.dashboards import collection
from monitoring.endpoints import serve
from monitoring.exporter.broker.certificate import CertificateCollector
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import BrokerReader
from monitoring.exporter.fleet.collector import FleetCollector
from monitoring.exporter.fleet.reports import FleetReports
from monitoring.exporter.settings import MonitorSettings
from monitoring.metrics import BrokerMetrics

MANAGEMENT_TIMEOUT_SECONDS = 5.0
"""Well below Prometheus' scrape timeout, so that a broker that hangs is reported as down instead of not at all."""

TURN_SECONDS = 0.5
"""How long it may take until a stop is noticed."""

app = typer.Typer(
    help="Metrics of the broker's queues and of the fleet for Prometheus.", no_args_is_help=True
)

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
    node_metrics_urls: Annotated[
        str | None,
        typer.Option(
            "--node-metrics-urls",
            help="http(s)://host:15692 of every node, parted by commas: RabbitMQ's own metrics, which tell of thousands of"
            " inboxes quickly; without them the management API is asked for each.",
        ),
    ] = None,
    vhost: Annotated[str | None, typer.Option("--vhost", help="The federation's virtual host.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of /metrics; 0 for any free one.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Interface of /metrics.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with these settings.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve depth, age and consumers of the queues, and how the devices are, at /metrics until told to stop.

    Of the devices it tells when it has a broker_url (--config, COLLAFUSE_BROKER_URL) of a user who may read the queue telemetry.
    """
    logs.configure("exporter", level=log_level)
    settings = MonitorSettings.load(
        config,
        management_url=management_url,
        node_metrics_urls=node_metrics_urls,
        vhost=vhost,
        port=port,
        address=address,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        management, nodes = _watched(settings)
        stack.enter_context(management)
        for node in nodes:
            stack.enter_context(node)
        registry = CollectorRegistry()
        registry.register(BrokerCollector(BrokerReader(management, settings.vhost, nodes)))
        turn = _listening(settings, registry, stack) if settings.hears_devices else None
        server = serve(registry, settings.port, settings.address)
        _log.info(
            "exporter_started",
            address=server.address,
            port=server.port,
            management=management.url,
            nodes=[node.url for node in nodes],
            vhost=settings.vhost,
            hears_devices=turn is not None,
        )
        while not stop.is_set():
            if turn is None:
                stop.wait()
            else:
                turn()
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


def _listening(
    settings: MonitorSettings, registry: CollectorRegistry, stack: ExitStack
) -> Callable[[], None]:
    """What is done over and over: taking in a report, and looking at the broker's certificate where that is due.

    A broker that cannot be reached is tried again for ever, while scrapes go on.
    """
    fleet = settings.fleet()
    connection = Connection(settings.broker(), name="exporter", metrics=BrokerMetrics(registry))
    reports = FleetReports(connection, fleet)
    registry.register(FleetCollector(fleet))
    certificate = CertificateCollector(lambda: ends_at(settings.broker()))
    registry.register(certificate)
    stack.enter_context(connection)

    def turn() -> None:
        certificate.turn()
        reports.take(TURN_SECONDS)

    return turn


def _watched(settings: MonitorSettings) -> tuple[Management, list[NodeMetrics]]:
    """The broker that was given, or the private node that runs here."""
    # None: by the system's authorities.
    tls = None if settings.broker_ca is None else ssl.create_default_context(cadata=settings.broker_ca)
    nodes = [NodeMetrics(url, tls=tls) for url in settings.node_metrics_urls]
    given = settings.management()
    if given is not None:
        url, user, password = given
        secret = password.get_secret_value()
        return Management(url, user, secret, tls=tls, timeout_seconds=MANAGEMENT_TIMEOUT_SECONDS), nodes
    node = find(settings.node_directory)
    if node is None:
        to_name_one = "set COLLAFUSE_MONITOR_MANAGEMENT_URL to http://user:password@host:15672"
        raise ConfigError(f"no broker to watch: {how_to_find_a_broker(settings.node_directory, to_name_one)}")
    management = Management(
        node.management_url, node.user, node.password, timeout_seconds=MANAGEMENT_TIMEOUT_SECONDS
    )
    return management, nodes or [NodeMetrics(node.prometheus_url)]
