"""What people and Prometheus look at: the dashboards as they lie in the repository, their panels, and the rules."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring" / "grafana" / "dashboards"
PROMETHEUS = ROOT / "monitoring" / "prometheus"
FOREIGN = {
    "up",
    "ALERTS",
    "rabbitmq_alarms_memory_used_watermark",
    "rabbitmq_alarms_free_disk_space_watermark",
}
"""Metrics of Prometheus and RabbitMQ themselves."""

Document = dict[str, Any]


@cache
def dashboards() -> dict[str, Document]:
    """File name without its ending → what Grafana loads; read once, and changed by nobody."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.iterdir())}


def panels(dashboard: Document) -> list[Document]:
    """Those that draw something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_expressions() -> dict[str, str]:
    """`dashboard: panel refId` → what it asks, Grafana's variables still in it."""
    return {
        f"{name}: {panel['title']} {target['refId']}": target["expr"]
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    }


def rules() -> list[Document]:
    """Every recording and alerting rule."""
    files = [PROMETHEUS / name for name in ("recording.yml", "alerts.yml")]
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """Everything in an expression that can only be a metric: it has one of our prefixes or an exporter's."""
    return set(re.findall(r"\b(?:collafuse[:_][\w:]+|rabbitmq_\w+|up\b|ALERTS\b)", expression))
