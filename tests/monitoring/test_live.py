"""A real federation, a real Prometheus: every panel and rule shows something, and what breaks is seen and told.

Nothing is simulated. Processes are started, overworked, stopped, killed or given what is wrong; the broker's alarm is its own.

The rules wait for minutes, so that nobody is woken for nothing. Here time goes HASTE times as fast: `live_prometheus.hurried`
divides every `for`, every window and every bound on the seconds that a message waits by it, mechanically, and Prometheus scrapes
and evaluates every second. A minute of the rules is a second of the test; nothing else in them is touched. The broker tells its
figures once a second instead of once in five.
"""

import math
import re
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import wait_until
from tests.monitoring.live_prometheus import DURATION_SECONDS, hurried
from tests.monitoring.stack import Stack
from tests.monitoring.watched import (
    PROMETHEUS,
    dashboards,
    metric_names,
    panel_expressions,
    panels,
    rules,
)

HASTE = 60.0
DEVICE = "clinic_device-1"
WAIT_SECONDS = 90.0
TOO_MANY = 400
"""Requests: more than the worker of the stack does in a quarter of a minute on a fast machine."""
ONLY_WITH_A_GPU = {"collafuse_gpu_memory_bytes", "collafuse_gpu_utilisation_ratio"}
"""Workers show these where NVIDIA's driver answers; a machine without one has no such series, and its panels are empty."""
ONLY_WITH_TLS = {"collafuse_broker_certificate_expiry_timestamp_seconds"}
"""The stack's links are unencrypted; tests/broker/test_tls.py has the exporter look at a certificate."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), HASTE) as stack:
        yield stack


def asked(expression: str) -> str:
    """An expression of a panel as Grafana would send it for a long stretch of time, so that all the stack has done counts."""
    return expression.replace("$__rate_interval", "10m").replace("$device", DEVICE)


def rule_operands() -> dict[str, str]:
    """What rules look at and record; an alert's expression itself has nothing to show while all is well."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    names = recorded.union(*(metric_names(rule["expr"]) for rule in rules()))
    return {f"rules: {name}": name for name in names}


def shown(stack: Stack, dashboard: str, title: str, target: int = 0) -> float:
    """The largest value that a panel shows now; not a number when it shows nothing."""
    (panel,) = [panel for panel in panels(dashboards()[dashboard]) if panel["title"] == title]
    found = stack.prometheus.query(asked(panel["targets"][target]["expr"]))
    values = [float(series["value"][1]) for series in found]
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, WAIT_SECONDS)


def wait_shown(stack: Stack, dashboard: str, title: str, is_so: Callable[[float], bool]) -> None:
    wait_for(lambda: is_so(shown(stack, dashboard, title)), f"{dashboard} shows it in the panel {title}")


def wait_fires(stack: Stack, names: set[str]) -> None:
    wait_for(lambda: names <= stack.prometheus.firing(), f"{' and '.join(sorted(names))} fire")


def wait_silent(stack: Stack, names: set[str]) -> None:
    wait_for(lambda: not names & stack.prometheus.firing(), f"{' and '.join(sorted(names))} are silent")


@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_haste_divides_times_and_changes_nothing_else(name: str) -> None:
    def times(text: str) -> list[float]:
        found = re.findall(r"(?:for: |interval: |\[|offset )(\d+)(ms|[smhd])\b", text)
        return [float(number) * DURATION_SECONDS[unit] for number, unit in found]

    text = (PROMETHEUS / name).read_text(encoding="utf-8")
    hurried_text = hurried(text, HASTE)
    assert times(hurried_text) == pytest.approx([seconds / HASTE for seconds in times(text)])
    assert len(times(text)) == len(re.findall(r"^ *(?:for|interval):|\[\w+\]|\boffset ", text, re.MULTILINE))
    changed = [
        (before, after)
        for before, after in zip(text.splitlines(), hurried_text.splitlines(), strict=True)
        if re.sub(r"\d+(?:ms|[smhd])\b", "", before) != re.sub(r"\d+(?:ms|[smhd])\b", "", after)
    ]
    assert all(re.search(r"(age|lag|oldest)_seconds.* > \d+", before) for before, _ in changed)
    assert bool(changed) == (name == "alerts.yml")


def test_every_panel_and_every_rule_shows_something(stack: Stack) -> None:
    waiting = {
        name: expression
        for name, expression in [*panel_expressions().items(), *rule_operands().items()]
        if not metric_names(expression) & (ONLY_WITH_A_GPU | ONLY_WITH_TLS)
    }

    def all_panels_have_data() -> bool:
        for agent in stack.agents:
            agent.ask()
        for name, expression in list(waiting.items()):
            values = [float(series["value"][1]) for series in stack.prometheus.query(asked(expression))]
            if any(not math.isnan(value) for value in values):
                del waiting[name]
        return not waiting

    assert not [name for name, expression in waiting.items() if "$" in asked(expression)]
    stack.send_garbage("samples", "samples.v1", 3)
    stack.send_garbage("telemetry", "telemetry.v1", 3)
    stack.ask(50)
    try:
        wait_for(all_panels_have_data, "every panel has data")
    finally:
        stack.drop_dead_letters()
        assert not waiting, sorted(waiting)
    assert len(stack.prometheus.rules()) == len(rules())
    wait_for(
        lambda: all(rule["health"] == "ok" for rule in stack.prometheus.rules()),
        "every rule has been evaluated",
    )


def test_an_alarm_of_the_broker_is_told_until_it_is_over(stack: Stack) -> None:
    told = {"CollafuseBrokerAlarm"}
    wait_shown(stack, "overview", "Broker's alarms", lambda value: value == 0)
    wait_silent(stack, told)

    stack.node.control("set_vm_memory_high_watermark", "absolute", "1")
    wait_shown(stack, "overview", "Broker's alarms", lambda value: value == 1)
    wait_shown(stack, "queues", "Alarms", lambda value: value == 1)
    wait_fires(stack, told)
    wait_shown(stack, "overview", "Queues and lag", lambda value: value >= 1)

    stack.node.control("set_vm_memory_high_watermark", "0.4")
    wait_shown(stack, "overview", "Broker's alarms", lambda value: value == 0)
    wait_silent(stack, told)


def test_a_worker_that_is_too_slow_and_then_gone_is_told_until_there_is_one_that_keeps_up(
    stack: Stack,
) -> None:
    slow = {"CollafuseQueueOldestMessage", "CollafuseQueueLag"}
    gone = {"CollafuseQueueNoConsumers", "CollafuseProcessDown"}
    wait_silent(stack, slow | gone)

    stack.ask(TOO_MANY)
    wait_shown(stack, "overview", "Oldest request", lambda seconds: seconds > 120 / HASTE)
    wait_shown(stack, "overview", "Wait for a worker", lambda seconds: seconds > 30 / HASTE)
    wait_fires(stack, slow)
    wait_shown(stack, "overview", "Denoising", lambda alerts: alerts >= 1)

    stack.ask(TOO_MANY // 10)
    stack.denoiser.kill()
    wait_shown(stack, "overview", "Nobody reads", lambda queues: queues == 1)
    wait_shown(stack, "overview", "Processes gone", lambda processes: processes >= 1)
    wait_fires(stack, gone)
    wait_shown(stack, "queues", "Does not shrink", lambda queues: queues == 1)

    stack.give_up_requests()
    stack.start_denoiser()
    answered = stack.answers
    stack.ask(3)
    wait_for(lambda: stack.answers >= answered + 3, "new requests are answered")
    wait_shown(stack, "overview", "Oldest request", lambda seconds: seconds == 0)
    wait_silent(stack, slow | gone)


def test_three_things_that_go_wrong_at_once_are_told_apart_until_each_is_mended(stack: Stack) -> None:
    """Dead letters, a worker on an old copy of the storage, and devices that are switched off."""
    told = {"CollafuseDeadLetters", "CollafuseVersionsDiffer", "CollafuseDevicesDisconnected"}
    wait_silent(stack, told)
    wait_shown(stack, "overview", "Versions behind", lambda versions: versions == 0)
    wait_shown(stack, "overview", "Devices connected", lambda share: share == 1)

    stale = stack.start_stale_denoiser()
    stack.send_garbage("samples", "samples.v1", 3)
    wait_shown(stack, "queues", "Refused, by reason", lambda letters: letters > 2)
    for agent in stack.agents:
        assert agent.process is not None
        agent.process.stop()
    stack.watch_both_denoisers()
    wait_shown(stack, "overview", "Dead letters", lambda letters: letters == 3)
    wait_shown(stack, "overview", "Devices silent", lambda devices: devices == 2)
    wait_shown(stack, "device", "Reports", lambda reports: reports == 0)
    wait_shown(stack, "overview", "Devices connected", lambda share: share < 0.5)
    wait_shown(stack, "overview", "Versions behind", lambda versions: versions == 1)
    wait_fires(stack, told)
    for area in ("Queues and lag", "Denoising", "Fleet"):
        wait_shown(stack, "overview", area, lambda alerts: alerts >= 1)

    stack.drop_dead_letters()
    stale.kill()
    stack.watch_denoiser()
    stack.start_agents()
    wait_shown(stack, "overview", "Dead letters", lambda letters: letters == 0)
    wait_shown(stack, "overview", "Versions behind", lambda versions: versions == 0)
    wait_shown(stack, "overview", "Devices connected", lambda share: share == 1)
    wait_shown(stack, "device", "Reports", lambda reports: reports == 1)
    wait_silent(stack, told)


def test_an_exporter_that_prometheus_finds_no_more_is_told_until_it_is_found(stack: Stack) -> None:
    told = {"CollafuseProcessMissing"}
    wait_silent(stack, told)

    stack.lose_exporter()
    wait_fires(stack, told)
    assert "CollafuseProcessDown" not in stack.prometheus.firing()
    wait_shown(stack, "overview", "Queues and lag", lambda value: value >= 1)

    stack.watch_exporter()
    wait_silent(stack, told)
    wait_shown(stack, "overview", "Broker", lambda value: value == 1)
