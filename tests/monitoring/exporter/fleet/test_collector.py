"""What a scrape shows of the fleet, and that it stays within the budget whatever devices say."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from broker.contract.telemetry import StepTimes
from monitoring.exporter.fleet.collector import COUNTERS, GAUGES, STEPS, FleetCollector
from monitoring.exporter.fleet.device import TROUBLES
from monitoring.exporter.fleet.fleet import Fleet
from tests.monitoring.exporter.fleet.reports import head, report, update

GAUGES_SAID = {
    "outbox_bytes": 3.0,
    "outbox_oldest_seconds": 60.0,
    "pool_images": 4.0,
    "pool_wanted": 8.0,
    "epsilon_max": 2.5,
    "image_joules": 1.0,
}
SERIES_OF_A_DEVICE = 11
"""As docs/metrics.md says."""


def registry_of(fleet: Fleet, now_seconds: float = 0.0) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FleetCollector(fleet, clock=lambda: now_seconds))
    return registry


def series_of(registry: CollectorRegistry) -> list[tuple[str, dict[str, str]]]:
    text = generate_latest(registry).decode()
    return [
        (sample.name, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def full_fleet(devices: int, *, device_series_max: int) -> Fleet:
    """So many devices that say all they can, each with names of its own."""
    fleet = Fleet(device_series_max=device_series_max)
    for number in range(devices):
        said = report(
            1,
            counters={"jobs_completed": 1, "releases": 2},
            gauges=GAUGES_SAID,
            runs=head(name=f"{number}" + "-" * 50, version=f"{number}" + "+_." * 20),
            dealt_with=update("installed"),
            steps=StepTimes(bounds=(0.1,), counts=(3, 1), sum_seconds=0.5),
        )
        fleet.note(f"clinic_{number}", said, is_redelivered=False, now_seconds=0.0, at=1e9)
    return fleet


def test_every_metric_is_shown_with_its_labels() -> None:
    fleet = full_fleet(1, device_series_max=5)
    fleet.refuse("not_msgpack", None, 0.0)
    shown: dict[str, set[str]] = {}
    for name, labels in series_of(registry_of(fleet)):
        shown.setdefault(name, set(labels))

    assert {name: set(labels) for name, (_, labels) in (GAUGES | COUNTERS).items()} == {
        name: labels for name, labels in shown.items() if not name.startswith(STEPS)
    }
    assert {f"{STEPS}_bucket", f"{STEPS}_sum", f"{STEPS}_count"} <= set(shown)


def test_the_series_of_five_thousand_devices_keep_to_the_budget() -> None:
    few = len(series_of(registry_of(full_fleet(50, device_series_max=0))))
    series = series_of(registry_of(full_fleet(5000, device_series_max=1000)))

    own = [labels["device"] for name, labels in series if name.startswith("collafuse_device_")]
    assert len(set(own)) == 1000
    assert len(own) == 1000 * SERIES_OF_A_DEVICE
    assert len(series) - len(own) == few < 100
    unlisted = registry_of(full_fleet(5000, device_series_max=1000)).get_sample_value(
        "collafuse_fleet_devices_unlisted"
    )
    assert unlisted == 4000


def test_figures_are_those_of_the_fleet() -> None:
    registry = registry_of(full_fleet(3, device_series_max=2))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("collafuse_fleet_devices", state="reporting") == 3
    assert value("collafuse_fleet_devices", state="silent") == 0
    assert value("collafuse_fleet_updates", state="installed") == 3
    assert value("collafuse_fleet_updates", state="rolled_back") == 0
    assert value("collafuse_fleet_outbox_bytes") == 9
    assert value("collafuse_fleet_image_joules") == 1
    assert value(f"{STEPS}_bucket", provider="cpu", le="0.1") == 9
    assert value(f"{STEPS}_bucket", provider="cpu", le="+Inf") == 12
    assert value(f"{STEPS}_count", provider="cpu") == 12
    assert value(f"{STEPS}_sum", provider="cpu") == 1.5
    assert value("collafuse_device_last_report_timestamp_seconds", device="clinic_2") == 1e9
    assert value("collafuse_device_head_step_seconds", device="clinic_2") == 0.125


def test_what_a_device_does_not_know_has_no_series() -> None:
    fleet = Fleet()
    fleet.note("clinic_old", report(), is_redelivered=False, now_seconds=0.0, at=1e9)

    names = {
        name for name, labels in series_of(registry_of(fleet)) if labels.get("device", "other") != "other"
    }
    assert names == {
        "collafuse_device_last_report_timestamp_seconds",
        "collafuse_device_reporting",
        "collafuse_device_troubled",
        "collafuse_device_uptime_seconds",
    }
    assert "collafuse_fleet_image_joules" not in {name for name, _ in series_of(registry_of(fleet))}


def test_devices_that_somebody_has_to_look_at_are_counted_and_named() -> None:
    fleet = Fleet()
    told = {
        "clinic_1": report(gauges={"ledger_incomplete": 1.0, "spool_damaged": 1.0}),
        "clinic_2": report(gauges={"ledger_incomplete": 1e17}),
        "clinic_3": report(gauges={"ledger_incomplete": 0.0, "head_key_revoked": -1.0}, runs=head()),
        "clinic_4": report(runs=head(fallback="no CUDA")),
    }
    for user, said in told.items():
        fleet.note(user, said, is_redelivered=False, now_seconds=0.0, at=1e9)

    value = registry_of(fleet).get_sample_value
    counted = {trouble: value("collafuse_fleet_troubled", {"trouble": trouble}) for trouble in TROUBLES}
    assert counted == {"ledger_incomplete": 2, "spool_damaged": 1, "head_key_revoked": 0, "head_on_cpu": 1}
    named = {user for user in told if value("collafuse_device_troubled", {"device": user})}
    assert named == {"clinic_1", "clinic_2", "clinic_4"}

    fleet.note("clinic_2", report(2), is_redelivered=False, now_seconds=1.0, at=1e9)
    assert value("collafuse_fleet_troubled", {"trouble": "ledger_incomplete"}) == 1
