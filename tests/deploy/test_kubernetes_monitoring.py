"""Prometheus and Grafana on Kubernetes: asked where metrics are served, with the rules and dashboards of monitoring/."""

import re
import runpy
from pathlib import Path

import yaml

from tests.deploy.kustomize import KUBERNETES, ROOT
from tests.deploy.manifests import BROKER_POD, BY_NAME, PODS, SERVING, of_kind
from tests.deploy.policies import matches


def test_prometheus_asks_every_process_and_gives_it_the_job_that_the_rules_know() -> None:
    asked = {}
    for monitor in of_kind("ServiceMonitor") + of_kind("PodMonitor"):
        spec = monitor["spec"]
        services = [
            each for each in of_kind("Service") if matches(spec["selector"], each["metadata"]["labels"])
        ]
        (pod,) = [pod for pod in PODS if matches(spec["selector"], pod.labels)]
        assert monitor["kind"] == "PodMonitor" or len(services) == 1 or pod is BROKER_POD
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        asked[pod.labels[spec["jobLabel"]]] = endpoint["port"]
    assert asked == dict.fromkeys(SERVING, "metrics") | {"rabbitmq": "prometheus-tls"}
    rules = "".join(
        (ROOT / f"monitoring/prometheus/{name}.yml").read_text() for name in ("alerts", "recording")
    )
    named = {job for jobs in re.findall(r'job[=!]~?"([^"]+)"', rules) for job in jobs.split("|")}
    assert named
    assert named <= set(asked) | {"edge"}


def test_copies_of_rules_and_the_list_of_dashboards_are_those_that_are_made() -> None:
    made: dict[Path, str] = runpy.run_path(str(KUBERNETES / "make-monitoring"))["made"]()
    for path, content in made.items():
        assert path.read_text(encoding="utf-8") == content, "run deploy/kubernetes/make-monitoring"
    for name in ("alerts", "recording"):
        rules = yaml.safe_load((ROOT / f"monitoring/prometheus/{name}.yml").read_text(encoding="utf-8"))
        assert BY_NAME["PrometheusRule", f"collafuse-{name}"]["spec"] == rules


def test_every_dashboard_is_there_and_small_enough() -> None:
    files = {path.name: path for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")}
    maps = [each for each in of_kind("ConfigMap") if each["metadata"]["name"].startswith("dashboard-")]
    found = {name: text for each in maps for name, text in each["data"].items()}
    assert found == {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for each in maps:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert sum(map(len, each["data"].values())) < 1_000_000, "a ConfigMap holds a megabyte"
