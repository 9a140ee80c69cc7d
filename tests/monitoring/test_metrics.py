"""Every process can show its metrics, and what it shows follows Prometheus' conventions."""

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from monitoring.catalogue import PROCESSES, as_markdown, catalogue
from monitoring.endpoints import serve
from monitoring.errors import MonitoringError
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, EdgeMetrics, TrainMetrics
from tests.conftest import WAIT_SECONDS

BOUNDED = (
    "collafuse_device_",
    "collafuse_fleet_distrusted",
    "collafuse_gpu_",
    "collafuse_store_client_samples",
)
"""Whose labels name clients, devices or GPUs: a number of them that has a bound."""
CATALOGUE_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS) as answer:
        return str(answer.read().decode())


def test_a_served_registry_answers_until_it_is_closed() -> None:
    registry = CollectorRegistry()
    TrainMetrics(registry).store_samples.set(12)
    server = serve(registry, port=0)
    assert "collafuse_store_samples 12.0" in read(server.port)
    server.close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_serves_the_series_of_the_catalogue_and_no_others(process: str) -> None:
    registry = CollectorRegistry()
    metrics = PROCESSES[process](registry)
    for metric in vars(metrics).values():
        if metric._labelnames:
            metric.labels(*metric._labelnames)
    server = serve(registry, port=0)
    samples = {line.partition("{")[0].partition(" ")[0] for line in read(server.port).splitlines()}
    server.close()
    known = {series for metric in catalogue() if metric.process == process for series in metric.series}
    assert samples - {"#"} == known


def test_probes_say_what_is_wrong_and_other_paths_are_not_there() -> None:
    problems: dict[str, str | None] = {"live": None, "ready": "warming up"}
    server = serve(
        CollectorRegistry(), port=0, live=lambda: problems["live"], ready=lambda: problems["ready"]
    )

    def ask(path: str) -> tuple[int, str]:
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}")
        return answer.status_code, answer.text

    assert ask("/livez") == (200, "ok\n")
    assert ask("/readyz") == ask("/readyz/") == (503, "warming up\n")
    problems["ready"] = None
    assert ask("/readyz") == (200, "ok\n")
    assert ask("/healthz") == (404, "there are /metrics, /livez, /readyz\n")
    server.close()


def test_metrics_are_served_on_ipv6_too() -> None:
    server = serve(CollectorRegistry(), port=0, address="::1")
    assert httpx.get(f"http://[::1]:{server.port}/livez").text == "ok\n"
    server.close()


def test_a_port_that_is_taken_is_one_clear_line() -> None:
    first = serve(CollectorRegistry(), port=0)
    try:
        with pytest.raises(
            MonitoringError, match=rf"127\.0\.0\.1:{first.port}.*choose another port"
        ) as refusal:
            serve(CollectorRegistry(), port=first.port)
        assert "\n" not in str(refusal.value)
    finally:
        first.close()


@pytest.mark.parametrize("port", [-1, 65_536])
def test_an_impossible_port_is_one_clear_line(port: int) -> None:
    with pytest.raises(MonitoringError, match="choose another port"):
        serve(CollectorRegistry(), port=port)


def test_an_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(MonitoringError, match=r"192\.0\.2\.1:0"):
        serve(CollectorRegistry(), port=0, address="192.0.2.1")


@pytest.mark.parametrize("make", [TrainMetrics, DenoiseMetrics, EdgeMetrics])
def test_a_process_shows_its_own_metrics_beside_those_of_its_connection(
    make: Callable[[CollectorRegistry], object],
) -> None:
    registry = CollectorRegistry()
    BrokerMetrics(registry)
    make(registry)
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: apt-get install prometheus"
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert (checked.returncode, checked.stderr.decode()) == (0, "")


def test_the_names_of_the_catalogue_are_ours_in_base_units_and_devices_are_labels_within_bounds_alone() -> (
    None
):
    metrics = catalogue()
    assert {metric.process for metric in metrics} == {
        "every process",
        "train worker",
        "denoise worker",
        "edge agent",
        "train or denoise worker on a machine with an NVIDIA GPU",
        "exporter",
    }
    for metric in metrics:
        assert metric.name.startswith("collafuse_")
        assert metric.meaning.endswith(".")
        if not metric.name.startswith(BOUNDED):
            assert not {"client", "device", "user", "inbox"} & set(metric.labels)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith(("_ms", "_milliseconds", "_mb", "_mib"))


def test_the_page_of_metrics_is_what_the_code_says() -> None:
    assert CATALOGUE_PAGE.read_text(encoding="utf-8") == as_markdown(), (
        "docs/metrics.md is out of date: collafuse monitor metrics > docs/metrics.md"
    )
