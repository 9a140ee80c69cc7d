"""A dashboard as data, laid out on Grafana's grid, and Grafana's JSON of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from monitoring.dashboards.panel import DATASOURCE, Json, Panel, link

GRID_CELLS = 24
TAG = "collafuse"
RUNBOOKS = "/public/collafuse-runbooks"
"""Where Grafana itself serves docs/runbooks, as compose.yaml mounts it."""


@dataclass(frozen=True)
class Row:
    """Panels under one heading, side by side from left to right as far as there is room."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard.

    Attributes:
        name: of its file, and the end of its uid.
        title, description: what people read.
        rows: from the top.
        chosen: the label that the reader chooses a value of, and the metric that has its values; empty for none.
    """

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    chosen: tuple[str, str] = ("", "")

    @property
    def uid(self) -> str:
        """By which links find it; it stays when the title changes."""
        return f"collafuse-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, from the top."""
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def alerts(self) -> tuple[str, ...]:
        """The alerts that its panels speak of."""
        return tuple(sorted({alert for panel in self.panels for alert in panel.alerts}))

    def to_json(self) -> Json:
        """What Grafana loads."""
        return {
            "id": None,
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": [TAG],
            "timezone": "browser",
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": 39,
            "version": 1,
            "refresh": "15s",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "annotations": {"list": []},
            "templating": {"list": list(self._variables())},
            "links": [_to_the_others()],
            "panels": list(self._laid_out()),
        }

    def _variables(self) -> Iterator[Json]:
        yield {
            "name": "datasource",
            "label": "Prometheus",
            "type": "datasource",
            "query": "prometheus",
            "current": {"text": "CollaFuse Prometheus", "value": "collafuse-prometheus"},
            "hide": 0,
            "refresh": 1,
        }
        yield {
            "name": "runbooks",
            "label": "Runbooks",
            "description": "Where the runbooks are read.",
            "type": "constant",
            "query": RUNBOOKS,
            "current": {"text": RUNBOOKS, "value": RUNBOOKS},
            "hide": 2,
            "skipUrlSync": True,
        }
        label, metric = self.chosen
        if label:
            values = f"label_values({metric}, {label})"
            yield {
                "name": label,
                "label": label.capitalize(),
                "type": "query",
                "datasource": DATASOURCE,
                "query": {"query": values, "refId": "StandardVariableQuery"},
                "hide": 0,
                "refresh": 2,
                "sort": 1,
                "multi": False,
                "includeAll": False,
            }

    def _laid_out(self) -> Iterator[Json]:
        numbers = count(1)
        y = 0
        for row in self.rows:
            heading = {"h": 1, "w": GRID_CELLS, "x": 0, "y": y}
            yield {
                "id": next(numbers),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": heading,
                "panels": [],
            }
            x, y, tallest = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > GRID_CELLS:
                    x, y, tallest = 0, y + tallest, 0
                yield panel.to_json(next(numbers), x, y)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest


def _to_the_others() -> Json:
    """Links to all dashboards with our tag, at the same time and of the same Prometheus."""
    return link("CollaFuse", "") | {
        "type": "dashboards",
        "tags": [TAG],
        "includeVars": True,
        "keepTime": True,
    }
