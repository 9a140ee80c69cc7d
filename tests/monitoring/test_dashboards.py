"""The dashboards are what the code says, what Grafana takes, about metrics that exist, and lead to where they say."""

import copy
import re
from itertools import pairwise
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from monitoring.catalogue import catalogue
from monitoring.cli import app
from monitoring.dashboards.collection import DASHBOARDS, as_text
from monitoring.errors import MonitoringError
from tests.monitoring import runbook
from tests.monitoring.grafana_models import UNITS, complaints
from tests.monitoring.test_rules import alerts
from tests.monitoring.watched import (
    FOLDER,
    FOREIGN,
    ROOT,
    Document,
    dashboards,
    metric_names,
    panel_expressions,
    panels,
    rules,
)

PROVISIONING = ROOT / "monitoring" / "grafana" / "provisioning"
NAMES = ["overview", "queues", "denoising", "training", "fleet", "device"]

each_dashboard = pytest.mark.parametrize("name", NAMES)


def provisioned(name: str) -> Any:
    return yaml.safe_load((PROVISIONING / name).read_text(encoding="utf-8"))


def links(panel: Document) -> list[str]:
    """Every address that a panel leads to, from its corner, from its values and from its columns."""
    config = panel["fieldConfig"]
    found = [*panel["links"], *config["defaults"].get("links", [])]
    for override in config["overrides"]:
        found += [one for each in override["properties"] if each["id"] == "links" for one in each["value"]]
    return [link["url"] for link in found]


def test_the_files_are_what_the_code_says() -> None:
    assert [each.name for each in DASHBOARDS] == NAMES
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.json" for name in NAMES}
    for each in DASHBOARDS:
        assert (FOLDER / f"{each.name}.json").read_text(encoding="utf-8") == as_text(each), (
            "the dashboards are out of date: collafuse monitor dashboards monitoring/grafana/dashboards"
        )


def test_the_command_writes_them_and_says_in_one_line_when_it_cannot(tmp_path: Any) -> None:
    done = CliRunner().invoke(app, ["dashboards", str(tmp_path)])
    assert done.stdout.split() == [str(tmp_path / f"{name}.json") for name in NAMES]
    assert (tmp_path / "fleet.json").read_bytes() == (FOLDER / "fleet.json").read_bytes()
    failed = CliRunner().invoke(app, ["dashboards", str(tmp_path / "nowhere")]).exception
    assert isinstance(failed, MonitoringError)
    assert re.fullmatch(r"cannot write the dashboard .*overview\.json: .*name a folder.*", str(failed))


@each_dashboard
def test_a_dashboard_is_one_that_grafana_takes(name: str) -> None:
    assert complaints(dashboards()[name]) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("grafikTooltip",), 1, ".grafikTooltip: Grafana knows no such key"),
        (("panels", 1, "gridPos", "w"), "six", ".panels[1].grid_pos.w"),
        (("panels", 1, "options", "colourMode"), "value", ".panels[1].options.colourMode"),
        (("panels", 1, "options", "colorMode"), "loud", ".panels[1].options.color_mode"),
        (("panels", 1, "targets", 0, "expression"), "up", ".panels[1].targets[0].expression"),
        (("panels", 1, "fieldConfig", "defaults", "einheit"), "s", ".panels[1].fieldConfig.defaults.einheit"),
        (("templating", "list", 0, "hide"), "no", ".templating.list_val[0].hide"),
    ],
)
def test_what_grafana_would_not_take_is_noticed(path: tuple[Any, ...], value: Any, complaint: str) -> None:
    broken = copy.deepcopy(dashboards()["overview"])
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (found,) = complaints(broken)
    assert found.startswith(complaint)


def test_dashboards_and_panels_can_be_told_apart() -> None:
    uids = [dashboard["uid"] for dashboard in dashboards().values()]
    assert len(set(uids)) == len(uids)
    assert set(uids) == {f"collafuse-{name}" for name in NAMES}
    for dashboard in dashboards().values():
        for key in ("id", "title"):
            values = [panel[key] for panel in dashboard["panels"]]
            assert len(set(values)) == len(values), dashboard["uid"]


@each_dashboard
def test_panels_lie_side_by_side_without_gaps_above_one_another(name: str) -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboards()[name]["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in own) < 24
        assert not cells & own, panel["title"]
        cells |= own
    lines = sorted({y for _, y in cells})
    assert lines[0] == 0
    assert all(next_line == line + 1 for line, next_line in pairwise(lines))


@each_dashboard
def test_a_panel_asks_the_datasource_that_is_chosen_and_ours_to_begin_with(name: str) -> None:
    dashboard = dashboards()[name]
    for asked in [
        *panels(dashboard),
        *(target for panel in panels(dashboard) for target in panel["targets"]),
    ]:
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    (source,) = provisioned("datasources/prometheus.yml")["datasources"]
    chosen = dashboard["templating"]["list"][0]
    assert (chosen["name"], chosen["type"], chosen["query"]) == ("datasource", "datasource", source["type"])
    assert chosen["current"] == {"text": source["name"], "value": source["uid"]}


@each_dashboard
def test_a_panel_says_what_it_shows_and_what_a_bad_value_means(name: str) -> None:
    for panel in panels(dashboards()[name]):
        assert re.fullmatch(r"[^*]+\.\n\n\*\*Bad:\*\* [^*]+\.", panel["description"]), panel["title"]


@each_dashboard
def test_lines_have_names_and_values_have_units(name: str) -> None:
    for panel in panels(dashboards()[name]):
        names = [target["legendFormat"] for target in panel["targets"]]
        assert all(names), panel["title"]
        assert len(set(names)) == len(names), panel["title"]
        config = panel["fieldConfig"]
        units = [
            config["defaults"].get("unit", "short"),
            panel["options"].get("yAxis", {}).get("unit", "short"),
        ]
        units += [
            each["value"] for one in config["overrides"] for each in one["properties"] if each["id"] == "unit"
        ]
        assert set(units) <= UNITS, panel["title"]


def test_every_metric_in_a_panel_or_a_rule_exists() -> None:
    known = {series for metric in catalogue() for series in metric.series}
    known |= {rule["record"] for rule in rules() if "record" in rule} | FOREIGN
    for expression in [*panel_expressions().values(), *(rule["expr"] for rule in rules())]:
        assert metric_names(expression), expression
        assert metric_names(expression) <= known, expression


def test_every_metric_of_the_catalogue_is_watched_by_a_panel_or_a_rule() -> None:
    texts = [*panel_expressions().values(), *(rule["expr"] for rule in rules())]
    watched = set().union(*map(metric_names, texts))
    for metric in catalogue():
        assert watched & set(metric.series), f"nothing looks at {metric.name}"


def test_every_alert_is_told_of_below_the_overview_and_counted_in_it() -> None:
    """The Overview's tiles count the alerts of the dashboards that they lead to, so none can be overlooked."""
    names = {alert["alert"] for alert in alerts()}
    told = {alert for each in DASHBOARDS if each.name != "overview" for alert in each.alerts}
    assert told == names
    counting = "\n".join(expr for name, expr in panel_expressions().items() if "ALERTS{" in expr)
    assert set(re.findall(r"Collafuse\w+", counting)) == names


def test_a_line_of_alarm_is_drawn_where_its_alert_begins() -> None:
    """A panel's last threshold is the number that one of its alerts compares with, if any of them compares with a number."""
    expressions = {alert["alert"]: alert["expr"] for alert in alerts()}
    compared = 0
    for each in DASHBOARDS:
        for panel in each.panels:
            bounds = {
                float(number)
                for alert in panel.alerts
                for number in re.findall(r"[<>]=? (\d+(?:\.\d+)?)", expressions[alert])
            } - {0.0}
            reds = {float(value) for value, _ in panel.steps if value is not None}
            if reds and bounds:
                assert bounds & reds, panel.title
                compared += 1
    assert compared >= 15


def test_every_link_leads_somewhere_and_every_dashboard_can_be_reached_from_the_overview() -> None:
    found = dashboards()
    reached: dict[str, set[str]] = {}
    for name, dashboard in found.items():
        addresses = [url for panel in panels(dashboard) for url in links(panel)]
        reached[name] = {match for url in addresses for match in re.findall(r"^/d/collafuse-(\w+)\?", url)}
        for url in addresses:
            page = re.fullmatch(r"\$\{runbooks\}/(\w+|\$\{__value\.raw\})\.md", url)
            assert page or re.match(r"/d/collafuse-\w+\?", url), url
            assert not page or page[1] in {*runbook.names(), "${__value.raw}"}, url
    assert reached["overview"] == {"queues", "denoising", "training", "fleet"}
    assert "device" in reached["fleet"]
    assert all(targets <= set(found) for targets in reached.values())
    for dashboard in found.values():
        (others,) = dashboard["links"]
        assert others["type"] == "dashboards"
        assert others["tags"] == dashboard["tags"] == ["collafuse"]


def test_the_device_is_chosen_from_those_that_have_reported() -> None:
    dashboard = dashboards()["device"]
    (chosen,) = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
    assert chosen["name"] == "device"
    assert metric_names(chosen["query"]["query"]) <= {metric.name for metric in catalogue()}
    assert all(
        '{device="$device"}' in target["expr"] or "collafuse_fleet_" in target["expr"]
        for panel in panels(dashboard)
        for target in panel["targets"]
    )


def test_grafana_is_given_the_folder_the_first_page_and_the_runbooks() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    (provider,) = provisioned("dashboards/collafuse.yml")["providers"]
    folder = provider["options"]["path"]
    assert mounts[f"./{FOLDER.relative_to(ROOT)}"] == folder
    assert service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/overview.json"
    # What lies below Grafana's folder `public` is served under that path.
    served = mounts[f"./{runbook.RUNBOOKS.relative_to(ROOT)}"].removeprefix("/usr/share/grafana")
    for dashboard in dashboards().values():
        (where,) = [each for each in dashboard["templating"]["list"] if each["name"] == "runbooks"]
        assert where["query"] == where["current"]["value"] == served
