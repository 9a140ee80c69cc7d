"""What a device says of itself, and when; nothing here touches a broker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry

from broker import codec
from broker.contract.telemetry import MAX_FIGURES, TelemetryV1
from edge_agent import status, telemetry
from edge_agent.heads import store
from edge_agent.heads.energy import note_energy
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.counters import Name, add
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from edge_agent.telemetry import Reporter
from monitoring.exporter.fleet.believed import GAUGE_BOUNDS
from monitoring.exporter.fleet.device import GAUGED_TROUBLES, OUTCOMES
from monitoring.metrics import EdgeMetrics
from tests.conftest import wait_until
from tests.edge_agent.rows import put


@pytest.fixture
def metrics() -> EdgeMetrics:
    return EdgeMetrics(CollectorRegistry())


@pytest.fixture
def slot() -> HeadSlot:
    return HeadSlot(None)


@pytest.fixture
def reporter(
    state: StateDirectory,
    spool: Spool,
    slot: HeadSlot,
    metrics: EdgeMetrics,
    settings: Callable[..., EdgeSettings],
) -> Callable[..., Reporter]:
    def make(**changes: float) -> Reporter:
        values = {"telemetry_seconds": 86_400} | changes
        return Reporter(state, spool, slot, metrics, settings(**values), wake=lambda: None)

    return make


def waiting(spool: Spool) -> list[TelemetryV1]:
    rows = spool.rows("SELECT type, body FROM outbox WHERE kind = 'telemetry' ORDER BY sequence")
    found = [codec.decode(row["type"], row["body"]) for row in rows]
    assert all(isinstance(message, TelemetryV1) for message in found)
    return found  # type: ignore[return-value]  # the line above


def something_happens(spool: Spool, bundle: str, state: store.State) -> None:
    with spool.transaction() as transaction:
        store.put(
            transaction, bundle * 64, name="ward", version="1", counter=1, state=state, reason="expired"
        )


def test_it_reports_now_and_then_and_the_newest_takes_the_place_of_the_unsent(
    spool: Spool, reporter: Callable[..., Reporter]
) -> None:
    device = reporter(telemetry_seconds=1)

    def told(sequence: int) -> bool:
        device.turn()
        return [message.sequence for message in waiting(spool)] == [sequence]

    wait_until(lambda: told(1), "a report is waiting")
    wait_until(lambda: told(2), "the next one is waiting in its place")


def test_what_happens_to_a_head_is_said_at_once(spool: Spool, reporter: Callable[..., Reporter]) -> None:
    device = reporter()
    device.turn()
    before = len(waiting(spool))

    something_happens(spool, "a", "refused")
    device.turn()

    (message,) = waiting(spool)
    assert message.update is not None
    assert (message.update.bundle, message.update.state, message.update.reason) == (
        "a" * 64,
        "refused",
        "expired",
    )
    assert before in (0, 1)
    assert message.head is None


def test_its_numbers_rise_over_restarts(spool: Spool, reporter: Callable[..., Reporter]) -> None:
    sequences = []
    for name in "abc":
        device = reporter()
        something_happens(spool, name, "refused")
        device.turn()
        sequences.append(waiting(spool)[0].sequence)

    assert sequences == [1, 2, 3]


def test_it_counts_and_measures(
    spool: Spool, metrics: EdgeMetrics, reporter: Callable[..., Reporter]
) -> None:
    metrics.head_step_seconds.labels(provider="cpu").observe(5.0)
    device = reporter()
    metrics.head_step_seconds.labels(provider="cpu").observe(0.001)
    metrics.head_step_seconds.labels(provider="cpu").observe(1e6)
    with spool.transaction() as transaction:
        add(transaction, "late")
        for number in range(MAX_FIGURES):
            transaction.execute("INSERT INTO counters VALUES (?, 1)", (f"an_older_agents_{number}",))

    something_happens(spool, "a", "refused")
    device.turn()

    (message,) = waiting(spool)
    assert message.counters["late"] == 1
    assert not any("older" in name for name in message.counters)
    assert "telemetry_sequence" not in message.counters
    assert message.counters["jobs_completed"] == 0
    assert message.gauges["outbox_messages"] == 0.0
    assert message.step_seconds is not None
    assert sum(message.step_seconds.counts) == 2
    assert message.step_seconds.counts[-1] == 1
    assert message.step_seconds.sum_seconds == pytest.approx(1e6 + 0.001)


def test_there_is_room_in_a_report_for_every_counter_that_an_agent_can_keep(
    spool: Spool, reporter: Callable[..., Reporter]
) -> None:
    with spool.transaction() as transaction:
        for name in get_args(Name):
            transaction.execute("INSERT INTO counters VALUES (?, 5)", (name,))
    device = reporter()
    something_happens(spool, "a", "refused")
    device.turn()

    (message,) = waiting(spool)
    assert message.counters.keys() > telemetry.TOLD
    assert set(get_args(Name)) - {"telemetry_sequence"} == telemetry.TOLD
    assert len(message.counters) <= MAX_FIGURES, (
        "what is beyond would never be told: make room in the contract"
    )


def test_it_says_what_an_image_takes_of_energy_once_it_knows(
    spool: Spool, reporter: Callable[..., Reporter]
) -> None:
    device = reporter()
    something_happens(spool, "a", "refused")
    device.turn()
    assert "image_joules" not in waiting(spool)[0].gauges

    with spool.transaction() as transaction:
        note_energy(transaction, 4, 10.0)
    something_happens(spool, "b", "refused")
    device.turn()
    assert waiting(spool)[0].gauges["image_joules"] == 2.5


def test_it_says_when_somebody_has_to_look_at_it_and_no_longer_than_that(
    state: StateDirectory, spool: Spool, settings: Callable[..., EdgeSettings]
) -> None:
    def told(facts: dict[str, Any]) -> set[str]:
        return {name for name in GAUGED_TROUBLES if telemetry._gauges(facts, None)[name] > 0}

    facts = status.collect(state, spool, settings())
    assert told(facts) == set()
    facts["ledger"]["incomplete_since"] = "2026-03-02"
    facts["quarantine"] = ["spool-1"]
    facts["head"] = {"key_revoked": True}
    assert told(facts) == set(GAUGED_TROUBLES)
    facts["ledger"]["loss_acknowledged"] = True
    assert told(facts) == {"spool_damaged", "head_key_revoked"}


def test_what_the_exporter_reads_of_a_report_is_what_a_device_says(
    state: StateDirectory,
    spool: Spool,
    settings: Callable[..., EdgeSettings],
    reporter: Callable[..., Reporter],
) -> None:
    facts = status.collect(state, spool, settings())
    facts["ledger"]["epsilon_max"] = 2.0
    assert telemetry._gauges(facts, 1.0).keys() >= {*GAUGE_BOUNDS, *GAUGED_TROUBLES}

    device = reporter()
    something_happens(spool, "a", "refused")
    device.turn()
    assert waiting(spool)[0].counters.keys() >= {"releases", *(f"jobs_{outcome}" for outcome in OUTCOMES)}


def test_jobs_that_housekeeping_forgot_stay_counted(
    state: StateDirectory,
    spool: Spool,
    settings: Callable[..., EdgeSettings],
    reporter: Callable[..., Reporter],
) -> None:
    with spool.transaction() as transaction:
        add(transaction, "forgotten_completed")
        add(transaction, "forgotten_completed")
    device = reporter()

    something_happens(spool, "a", "refused")
    device.turn()

    (message,) = waiting(spool)
    assert message.counters["jobs_completed"] == 2
    assert status.collect(state, spool, settings())["jobs"] == {"completed": 2}


def test_a_full_outbox_costs_the_report_and_nothing_else(
    spool: Spool, reporter: Callable[..., Reporter]
) -> None:
    put(spool, "m", bytes(2**20))
    device = reporter(outbox_max_bytes=2**20)

    something_happens(spool, "a", "refused")
    device.turn()

    assert waiting(spool) == []
    assert outbox.load(spool).messages == 1


def test_the_secret_of_the_device_is_in_no_report(
    spool: Spool, state: StateDirectory, reporter: Callable[..., Reporter], tmp_path: Path
) -> None:
    secret = state.secret()
    device = reporter()
    something_happens(spool, "a", "refused")
    device.turn()

    row = spool.row("SELECT body FROM outbox WHERE kind = 'telemetry'")
    assert row is not None
    assert secret not in row[0]
    assert secret.hex().encode() not in row[0]
    assert str(tmp_path).encode() not in row[0]
