"""Every alert has a runbook, and a runbook speaks of commands, options, services, metrics, log events and settings that exist."""

import re
from pathlib import Path

import pytest
import yaml

from monitoring.catalogue import catalogue
from tests.deploy import compose_lines
from tests.deploy.commands import complaint
from tests.deploy.composition import SETTINGS
from tests.monitoring import runbook
from tests.monitoring.runbook import PARTS, Runbook
from tests.monitoring.test_rules import alerts, promtool
from tests.monitoring.watched import FOREIGN, metric_names, rules

ROOT = Path(__file__).parents[2]
ROOMS = ("broker", "server_worker", "edge_agent", "monitoring")
SEVERITY = {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
PAGES = [runbook.read(name) for name in runbook.names()]
QUERY = ["promtool", "query", "instant", "http://127.0.0.1:9090"]
OF_THE_MACHINE = {"chmod", "df", "dmesg", "grep", "head", "nvidia-smi", "openssl", "tail"}
IN_A_CONTAINER = {
    "collafuse",
    "df",
    "ls",
    "mv",
    "promtool",
    "rabbitmq-diagnostics",
    "rabbitmq-queues",
    "rabbitmqctl",
    "rm",
    "sh",
}
OF_DOCKER = {("builder", "prune"), ("stats", "--no-stream")}

each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def programs(page: Runbook) -> list[list[str]]:
    """Every program that the page's commands run, with its words; of `docker compose`, what it runs in a container."""
    found = []
    for command in page.commands:
        for words in runbook.stages(command):
            if words[:2] == ["docker", "compose"]:
                inner = compose_lines.inner_command(words[2:])
                assert not inner or inner[0] in IN_A_CONTAINER, command
                found += [inner] if inner else []
            elif words[0] == "docker":
                assert tuple(words[1:3]) in OF_DOCKER, command
            else:
                assert words[0] in OF_THE_MACHINE | {"collafuse"}, command
                found.append(words)
    return found


def expressions(page: Runbook) -> list[str]:
    """What the page asks Prometheus."""
    return [words[-1] for words in programs(page) if words[:4] == QUERY]


@each_page
def test_no_page_copies_a_file_into_a_container_in_which_it_would_be_roots(page: Runbook) -> None:
    """What is copied so keeps its mode and belongs to root; a file that is its owner's alone could not be read there."""
    for command in page.commands:
        for words in runbook.stages(command):
            into = words[:3] == ["docker", "compose", "cp"] and ":" in words[-1]
            assert not into, command


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert set(runbook.names()) == set(SEVERITY)
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"


def test_the_manual_lists_every_alert_with_its_runbook_and_severity() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| \S.* \|$", re.MULTILINE)
    found = row.findall(manual)
    assert {name: severity for name, _, severity in found} == SEVERITY
    assert all(name == file for name, file, _ in found)
    assert len(found) == len(SEVERITY)


@each_page
def test_a_runbook_has_its_parts_and_a_command_that_shows_and_one_that_mends(page: Runbook) -> None:
    assert page.head.startswith(f"# {page.name}\n\n**{SEVERITY[page.name]}**: ")
    assert list(page.parts) == PARTS
    assert all(page.parts.values())
    assert runbook.in_blocks(page.parts["How to see it"])
    assert runbook.in_blocks(page.parts["How to mend it"])


@each_page
def test_every_command_of_a_runbook_can_be_given(page: Runbook) -> None:
    for words in programs(page):
        if words[0] == "collafuse":
            assert complaint(words[1:]) is None, " ".join(words)


@each_page
def test_what_a_runbook_asks_prometheus_is_about_metrics_that_exist(page: Runbook, tmp_path: Path) -> None:
    known = {series for metric in catalogue() for series in metric.series} | FOREIGN
    known |= {rule["record"] for rule in rules() if "record" in rule}
    asked = expressions(page)
    for expression in asked:
        assert metric_names(expression), expression
        assert metric_names(expression) <= known, expression
    as_rules = [{"record": f"asked:{number}", "expr": asked[number]} for number in range(len(asked))]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": as_rules}]}), encoding="utf-8")
    promtool("check", "rules", file)


@each_page
def test_what_a_runbook_looks_for_in_a_log_is_logged(page: Runbook) -> None:
    events = set(re.findall(r'"event": "(\w+)"', page.text))
    sources = [path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    for event in events:
        assert any(f'"{event}"' in source for source in sources), event


@each_page
def test_the_settings_that_a_runbook_names_exist(page: Runbook) -> None:
    for prefix, name in re.findall(r"\b(COLLAFUSE_(?:TRAIN|DENOISE|EDGE|MONITOR)_)(\w+)", page.text):
        assert name.lower() in SETTINGS[prefix].model_fields, prefix + name


@pytest.mark.parametrize(
    "file",
    [*sorted(runbook.RUNBOOKS.glob("*.md")), ROOT / "docs" / "operations.md"],
    ids=lambda file: file.stem,
)
def test_every_link_leads_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", file.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        page = (file.parent / path) if path else file
        assert page.exists(), target
        headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target
