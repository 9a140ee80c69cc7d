"""Prometheus and Grafana on Kubernetes: asked where metrics are served, with the rules and dashboards of monitoring/."""

import re
import runpy
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.dashboards.dashboard import RUNBOOKS
from tests.deploy.kustomize import KUBERNETES, ROOT, build
from tests.deploy.manifests import BROKER_POD, BY_NAME, PODS, SERVING, of_kind
from tests.deploy.policies import matches
from tests.monitoring.watched import FOREIGN

NAMESPACE = f'namespace="{BY_NAME["Namespace", "collafuse"]["metadata"]["name"]}"'


def _everywhere(spec: dict[str, Any]) -> dict[str, Any]:
    """The same rules, asking for no namespace."""

    def moved(rule: dict[str, Any]) -> dict[str, Any]:
        return rule | {"expr": rule["expr"].replace(f"{{{NAMESPACE}}}", "").replace(f"{NAMESPACE},", "")}

    return {"groups": [each | {"rules": [*map(moved, each["rules"])]} for each in spec["groups"]]}


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
        everywhere = _everywhere(BY_NAME["PrometheusRule", f"collafuse-{name}"]["spec"])
        assert everywhere == rules


def test_rules_on_kubernetes_look_at_our_namespace_where_a_metric_is_not_ours_alone() -> None:
    specs = [each["spec"] for each in of_kind("PrometheusRule")]
    expressions = [
        rule["expr"]
        for spec in specs
        for group in spec["groups"]
        for rule in group["rules"]
        if "expr" in rule
    ]
    found = [
        (name, matchers)
        for expression in expressions
        for name, matchers in re.findall(r"\b(up|rabbitmq_\w+)\b(\{[^}]*\})?", expression)
    ]
    assert {name for name, _ in found} == FOREIGN - {"ALERTS"}
    assert all(NAMESPACE in matchers for _, matchers in found), found


def test_every_dashboard_is_there_and_small_enough() -> None:
    files = {path.name: path for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")}
    maps = [each for each in of_kind("ConfigMap") if each["metadata"]["name"].startswith("dashboard-")]
    found = {name: text for each in maps for name, text in each["data"].items()}
    assert found == {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for each in maps:
        assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert sum(map(len, each["data"].values())) < 1_000_000, "a ConfigMap holds a megabyte"


def test_grafana_can_mount_every_runbook_where_the_dashboards_look_for_them() -> None:
    (pages,) = build(ROOT / "docs" / "runbooks")
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^ +extraConfigmapMounts:\n(?: +.+\n)+", page, re.MULTILINE)
    (mount,) = yaml.safe_load(textwrap.dedent(shown))["extraConfigmapMounts"]

    assert pages["data"].keys() == {path.name for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert sum(map(len, pages["data"].values())) < 262_144, "kubectl apply keeps a copy in an annotation"
    assert (mount["name"], mount["configMap"]) == (pages["metadata"]["name"],) * 2
    assert mount["mountPath"] == f"/usr/share/grafana{RUNBOOKS}"
    assert "kubectl -n monitoring apply -k docs/runbooks" in page


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")
def test_the_runbooks_are_read_here_as_kubectl_reads_them() -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", ROOT / "docs" / "runbooks"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (made.returncode, made.stderr) == (0, "")
    assert [yaml.safe_load(made.stdout)] == build(ROOT / "docs" / "runbooks")
