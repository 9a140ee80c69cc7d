"""The panels of a dashboard as data: what each shows, when that is bad and where to go then; and Grafana's JSON of them.

The keys are those of Grafana 11, whose published models judge the result in the tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from monitoring.dashboards.query import Query

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
"""A variable of every dashboard, so that it can be read against another Prometheus."""

Steps = tuple[tuple[float | None, str], ...]
"""From which value on a colour holds; None: from the least on."""

NEUTRAL: Steps = ((None, "text"),)


def above(red: float, orange: float | None = None) -> Steps:
    """Large is bad."""
    between: Steps = () if orange is None else ((orange, "orange"),)
    return ((None, "green"), *between, (red, "red"))


def below(red: float, orange: float | None = None) -> Steps:
    """Small is bad."""
    if orange is None:
        return ((None, "red"), (red, "green"))
    return ((None, "red"), (red, "orange"), (orange, "green"))


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: a few words.
        shows: what is drawn, in a sentence.
        bad: what a bad value means.
        queries: at least one.
        unit: one of Grafana's identifiers.
        steps: from which values on it is bad.
        alerts: those that speak of the same; the panel leads to their runbooks.
        leads_to: the uid of the dashboard that tells more.
        width, height: in cells of Grafana's grid, of which there are 24 side by side.
    """

    title: str
    shows: str
    bad: str
    queries: tuple[Query, ...]
    unit: str = "short"
    steps: Steps = NEUTRAL
    alerts: tuple[str, ...] = ()
    leads_to: str | None = None
    width: int = 8
    height: int = 8

    kind: ClassVar[str]
    instant: ClassVar[bool] = False

    def to_json(self, number: int, x: int, y: int) -> Json:
        """number: the panel's, distinct within its dashboard;  x, y: the upper left cell."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": f"{self.shows}\n\n**Bad:** {self.bad}",
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "links": self._links(),
            "targets": [self._target(chr(ord("A") + k), query) for k, query in enumerate(self.queries)],
            "fieldConfig": self._field_config(),
            "options": self._options(),
        } | self._more()

    def _target(self, name: str, query: Query) -> Json:
        return {
            "refId": name,
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "format": "time_series",
            "instant": self.instant,
            "range": not self.instant,
        }

    def _links(self) -> list[Json]:
        """First where the cause is to be seen, then what to do."""
        onward = [] if self.leads_to is None else [link("Where it comes from", way_to(self.leads_to))]
        return onward + [
            link(f"Runbook: {alert}", f"${{runbooks}}/{alert}.md", new_tab=True) for alert in self.alerts
        ]

    def _thresholds(self) -> Json:
        steps = [{"color": colour, "value": value} for value, colour in self.steps]
        return {"mode": "absolute", "steps": steps}

    def _field_config(self) -> Json:
        raise NotImplementedError

    def _options(self) -> Json:
        raise NotImplementedError

    def _more(self) -> Json:
        return {}


@dataclass(frozen=True)
class Stat(Panel):
    """One figure, coloured by its thresholds; a click on it leads on.

    words: what stands instead of a value, with its colour.
    """

    width: int = 3
    height: int = 4
    words: Mapping[float, tuple[str, str]] = field(default_factory=dict)

    kind = "stat"
    instant = True

    def _field_config(self) -> Json:
        defaults: Json = {"unit": self.unit, "thresholds": self._thresholds(), "noValue": "nothing known"}
        if self.words:
            options = {
                f"{value:g}": {"text": text, "color": colour} for value, (text, colour) in self.words.items()
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        if self.leads_to is not None:
            defaults["links"] = [{"title": "Where it comes from", "url": way_to(self.leads_to)}]
        return {"defaults": defaults, "overrides": []}

    def _options(self) -> Json:
        return {
            "colorMode": "background" if self.steps != NEUTRAL else "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }


@dataclass(frozen=True)
class Series(Panel):
    """Lines over time; thresholds are drawn as dashed lines.

    stacked: one upon the other.  tabular: the legend is a table with the newest and the largest value of each line.
    """

    stacked: bool = False
    tabular: bool = False

    kind = "timeseries"

    def _field_config(self) -> Json:
        custom = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if self.stacked else 5,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if self.steps != NEUTRAL else "off"},
        }
        defaults = {"unit": self.unit, "min": 0, "thresholds": self._thresholds(), "custom": custom}
        return {"defaults": defaults, "overrides": []}

    def _options(self) -> Json:
        legend = {
            "displayMode": "table" if self.tabular else "list",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"] if self.tabular else [],
        }
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


@dataclass(frozen=True)
class Heatmap(Panel):
    """The buckets of a histogram over time; `unit` is that of its bounds."""

    kind = "heatmap"

    def _target(self, name: str, query: Query) -> Json:
        return super()._target(name, query) | {"format": "heatmap"}

    def _field_config(self) -> Json:
        return {"defaults": {"custom": {"scaleDistribution": {"type": "linear"}}}, "overrides": []}

    def _options(self) -> Json:
        return {
            "calculate": False,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "fill": "dark-orange",
                "exponent": 0.5,
                "steps": 64,
            },
            "cellGap": 1,
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self.unit},
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": False},
        }


@dataclass(frozen=True)
class Table(Panel):
    """A line for each combination of labels, and a column for each query.

    labels: those shown, in this order, with the word above the column.
    click: the label whose cell leads somewhere, and that address; empty for none.
    values: whether the queries' values are shown beside the labels.
    nothing: what stands there when there is no line.
    """

    width: int = 24
    labels: Mapping[str, str] = field(default_factory=dict)
    click: tuple[str, str, str] = ("", "", "")
    values: bool = True
    nothing: str = "nothing"

    kind = "table"
    instant = True

    def _columns(self) -> list[str]:
        """What Grafana calls the queries' columns before they get their names."""
        if len(self.queries) == 1:
            return ["Value"]
        return [f"Value #{chr(ord('A') + k)}" for k in range(len(self.queries))]

    def _target(self, name: str, query: Query) -> Json:
        return super()._target(name, query) | {"format": "table"}

    def _field_config(self) -> Json:
        overrides = [_override(label, {"displayName": word}) for label, word in self.labels.items()]
        for column, query in zip(self._columns(), self.queries, strict=True):
            if self.values:
                overrides.append(
                    _override(column, {"displayName": query.legend, "unit": query.unit or self.unit})
                )
        label, title, url = self.click
        if label:
            overrides.append(_override(label, {"links": [{"title": title, "url": url, "targetBlank": True}]}))
        return {
            "defaults": {"noValue": self.nothing, "thresholds": self._thresholds()},
            "overrides": overrides,
        }

    def _options(self) -> Json:
        return {"showHeader": True, "cellHeight": "sm"}

    def _more(self) -> Json:
        shown = [*self.labels, *(self._columns() if self.values else [])]
        places = {name: place for place, name in enumerate(shown)}
        return {
            "transformations": [
                {"id": "merge", "options": {}},
                {"id": "filterFieldsByName", "options": {"include": {"names": shown}}},
                {
                    "id": "organize",
                    "options": {"indexByName": places, "excludeByName": {}, "renameByName": {}},
                },
            ]
        }


def link(title: str, url: str, *, new_tab: bool = False) -> Json:
    """A link of a panel or of a dashboard."""
    return {
        "title": title,
        "type": "link",
        "icon": "external link",
        "tooltip": "",
        "url": url,
        "tags": [],
        "asDropdown": False,
        "targetBlank": new_tab,
        "includeVars": False,
        "keepTime": False,
    }


def way_to(uid: str) -> str:
    """The address of another dashboard at the same time and of the same Prometheus."""
    return f"/d/{uid}?${{datasource:queryparam}}&${{__url_time_range}}"


def _override(name: str, properties: Json) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }
