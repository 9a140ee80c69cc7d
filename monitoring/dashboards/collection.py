"""The dashboards of a federation, and how they become the files that Grafana is given."""

import json
from pathlib import Path

from monitoring.dashboards.dashboard import Dashboard
from monitoring.dashboards.denoising import DENOISING
from monitoring.dashboards.device import DEVICE
from monitoring.dashboards.fleet import FLEET
from monitoring.dashboards.overview import OVERVIEW
from monitoring.dashboards.queues import QUEUES
from monitoring.dashboards.training import TRAINING
from monitoring.errors import MonitoringError

DASHBOARDS = (OVERVIEW, QUEUES, DENOISING, TRAINING, FLEET, DEVICE)


def as_text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard.to_json(), indent=1, ensure_ascii=False) + "\n"


def write(folder: Path) -> list[Path]:
    """Write every dashboard into a folder that exists, as NAME.json; returns the files.

    Raises:
        MonitoringError: a file cannot be written.
    """
    files = []
    for dashboard in DASHBOARDS:
        path = folder / f"{dashboard.name}.json"
        try:
            path.write_text(as_text(dashboard), encoding="utf-8")
        except OSError as error:
            raise MonitoringError(
                f"cannot write the dashboard {path}: {error.strerror}; name a folder that exists and may be written"
            ) from error
        files.append(path)
    return files
