"""What Prometheus is to know of the fleet: sums over all devices, and a bounded number of devices one by one.

At most DEVICE_SERIES_MAX devices (a setting) have series of their own, eleven each at most, and at most ten are named as
distrusted; the number of all other series does not depend on the fleet's size.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from broker.contract.telemetry import UpdateState
from monitoring.exporter.fleet.device import TROUBLES, DeviceState
from monitoring.exporter.fleet.fleet import Fleet
from monitoring.exporter.fleet.picture import Picture, Totals
from monitoring.metrics import STEP_BUCKETS_SECONDS

GAUGES = {
    "collafuse_fleet_devices": (
        "Devices heard of: reporting, or silent for three of their own intervals; those not heard of for a week are gone.",
        ("state",),
    ),
    "collafuse_fleet_devices_unlisted": ("Devices beyond the budget, without series of their own.", ()),
    "collafuse_fleet_devices_late": (
        "Reporting devices whose oldest message has waited for an hour or longer.",
        (),
    ),
    "collafuse_fleet_heads": (
        "Reporting devices that run a head; beyond the twenty most frequent, head is other.",
        ("head", "version", "provider"),
    ),
    "collafuse_fleet_updates": (
        "Reporting devices by the state of the head's bundle that they dealt with last.",
        ("state",),
    ),
    "collafuse_fleet_outbox_bytes": ("Bytes in the outboxes of reporting devices together.", ()),
    "collafuse_fleet_outbox_oldest_seconds": (
        "Age of the oldest message in an outbox of a reporting device.",
        (),
    ),
    "collafuse_fleet_pool_images": ("Samples at the cut in stock on reporting devices together.", ()),
    "collafuse_fleet_pool_wanted": ("Samples at the cut that there are to be in stock there.", ()),
    "collafuse_fleet_epsilon_max": (
        "Epsilon of the image that has cost most, among reporting devices that can say; where nothing is promised none is said.",
        (),
    ),
    "collafuse_fleet_image_joules": (
        "Energy that a device took to finish an image, in the median over reporting devices that know it.",
        (),
    ),
    "collafuse_fleet_troubled": (
        "Reporting devices on which somebody has to look at something, by what that is; one may have several.",
        ("trouble",),
    ),
    "collafuse_fleet_distrusted": (
        "Devices that of late said what cannot be, sent what is no report, or flooded the queue; beyond ten, device is other.",
        ("device", "cause"),
    ),
    "collafuse_device_last_report_timestamp_seconds": (
        "When the device was last heard of, Unix time.",
        ("device",),
    ),
    "collafuse_device_reporting": ("1 while the device reports, 0 when it is silent.", ("device",)),
    "collafuse_device_troubled": (
        "1 when the device says that somebody has to look at it: ledger, spool, or head.",
        ("device",),
    ),
    "collafuse_device_outbox_bytes": ("Bytes in the device's outbox.", ("device",)),
    "collafuse_device_outbox_oldest_seconds": (
        "Age of the oldest message in the device's outbox.",
        ("device",),
    ),
    "collafuse_device_pool_images": ("Samples at the cut in stock on the device.", ("device",)),
    "collafuse_device_head_info": (
        "1 for the head that the device runs.",
        ("device", "head", "version", "provider"),
    ),
    "collafuse_device_head_step_seconds": (
        "Mean time of the head's steps, in the device's last report with any.",
        ("device",),
    ),
    "collafuse_device_epsilon_max": ("Epsilon of the device's image that has cost most.", ("device",)),
    "collafuse_device_image_joules": (
        "Energy that the device takes to finish an image, in the mean.",
        ("device",),
    ),
    "collafuse_device_uptime_seconds": (
        "How long the device's agent had been running at its last report.",
        ("device",),
    ),
}
"""Name → meaning and labels."""
COUNTERS = {
    "collafuse_fleet_jobs_total": (
        "Generation jobs that devices ended since the exporter heard of them.",
        ("outcome",),
    ),
    "collafuse_fleet_releases_total": ("Images that devices released since the exporter heard of them.", ()),
    "collafuse_fleet_reports_total": ("Reports of devices taken in.", ()),
    "collafuse_fleet_reports_refused_total": (
        "Messages among the reports that are none, dropped.",
        ("reason",),
    ),
    "collafuse_fleet_figures_unbelieved_total": (
        "Reports in which a figure was beyond what is believed of a device, and left out.",
        ("figure",),
    ),
}
STEPS = "collafuse_fleet_head_step_seconds"

Family = GaugeMetricFamily | CounterMetricFamily


class FleetCollector(Collector):
    """Turns the picture of the fleet into metrics.

    Args:
        fleet: what is known of it.
        clock: the monotonic clock by which it was noted, in seconds.
    """

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """The metrics without samples."""
        return [*_families().values(), _steps({})]

    def collect(self) -> Iterable[Metric]:
        """Every metric as of now."""
        picture = self._fleet.picture(self._clock())
        families = _families()
        _add_fleet(families, picture)
        _add_totals(families, picture.totals)
        for user, state, is_reporting in picture.listed:
            _add_device(families, user, state, is_reporting)
        return [*families.values(), _steps(picture.totals.steps)]


def _families() -> dict[str, Family]:
    gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in GAUGES.items()}
    counters = {
        name: CounterMetricFamily(name, text, labels=labels) for name, (text, labels) in COUNTERS.items()
    }
    return {**gauges, **counters}


def _steps(totals: Mapping[str, tuple[tuple[int, ...], float]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        STEPS, "One network call with its sampler step, on the devices.", labels=("provider",)
    )
    bounds = [*map(floatToGoString, STEP_BUCKETS_SECONDS), "+Inf"]
    for provider, (counts, sum_seconds) in totals.items():
        family.add_metric([provider], [*zip(bounds, accumulate(counts), strict=True)], sum_seconds)
    return family


def _add_fleet(families: Mapping[str, Family], picture: Picture) -> None:
    _add(families, "collafuse_fleet_devices", picture.reporting, "reporting")
    _add(families, "collafuse_fleet_devices", picture.silent, "silent")
    _add(families, "collafuse_fleet_devices_unlisted", picture.unlisted)
    _add(families, "collafuse_fleet_devices_late", picture.late)
    for head, devices in picture.heads:
        _add(families, "collafuse_fleet_heads", devices, *head)
    for state in get_args(UpdateState):
        _add(families, "collafuse_fleet_updates", picture.updates.get(state, 0), state)
    _add(families, "collafuse_fleet_outbox_bytes", picture.outbox_bytes)
    _add(families, "collafuse_fleet_outbox_oldest_seconds", picture.outbox_oldest_seconds)
    _add(families, "collafuse_fleet_pool_images", picture.pool_images)
    _add(families, "collafuse_fleet_pool_wanted", picture.pool_wanted)
    _add(families, "collafuse_fleet_epsilon_max", picture.epsilon_max)
    _add(families, "collafuse_fleet_image_joules", picture.image_joules)
    for trouble in TROUBLES:
        _add(families, "collafuse_fleet_troubled", picture.troubled.get(trouble, 0), trouble)
    for (device, cause), devices in picture.distrusted.items():
        _add(families, "collafuse_fleet_distrusted", devices, device, cause)


def _add_totals(families: Mapping[str, Family], totals: Totals) -> None:
    for outcome, count in totals.jobs.items():
        _add(families, "collafuse_fleet_jobs_total", count, outcome)
    _add(families, "collafuse_fleet_releases_total", totals.releases)
    _add(families, "collafuse_fleet_reports_total", totals.reports)
    for reason, count in totals.refused.items():
        _add(families, "collafuse_fleet_reports_refused_total", count, reason)
    for figure, count in totals.unbelieved.items():
        _add(families, "collafuse_fleet_figures_unbelieved_total", count, figure)


def _add_device(families: Mapping[str, Family], user: str, state: DeviceState, is_reporting: bool) -> None:
    _add(families, "collafuse_device_last_report_timestamp_seconds", state.heard_at, user)
    _add(families, "collafuse_device_reporting", is_reporting, user)
    _add(families, "collafuse_device_troubled", bool(state.troubles), user)
    _add(families, "collafuse_device_outbox_bytes", state.outbox_bytes, user)
    _add(families, "collafuse_device_outbox_oldest_seconds", state.outbox_oldest_seconds, user)
    _add(families, "collafuse_device_pool_images", state.pool_images, user)
    if state.shown_head is not None:
        _add(families, "collafuse_device_head_info", 1, user, *state.shown_head)
    _add(families, "collafuse_device_head_step_seconds", state.step_seconds, user)
    _add(families, "collafuse_device_epsilon_max", state.epsilon_max, user)
    _add(families, "collafuse_device_image_joules", state.image_joules, user)
    _add(families, "collafuse_device_uptime_seconds", state.uptime_seconds, user)


def _add(families: Mapping[str, Family], name: str, value: float | None, *labels: str) -> None:
    """A sample, unless there is nothing to say."""
    if value is not None:
        families[name].add_metric(labels, float(value))
