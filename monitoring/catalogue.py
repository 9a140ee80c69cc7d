"""Every metric of the project, read from the classes that make them: the source of docs/metrics.md."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from monitoring.exporter.broker.certificate import CertificateCollector
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import Inboxes, Reading
from monitoring.exporter.fleet import believed
from monitoring.exporter.fleet.collector import FleetCollector
from monitoring.exporter.fleet.doubts import NAMED
from monitoring.exporter.fleet.fleet import DEVICE_SERIES_MAX, Fleet
from monitoring.gpus import GpuCollector
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, EdgeMetrics, TrainMetrics

PROCESSES = {
    "every process": BrokerMetrics,
    "train worker": TrainMetrics,
    "denoise worker": DenoiseMetrics,
    "edge agent": EdgeMetrics,
}
"""Who serves which metrics; the exporter's come beside these."""

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


_INTRODUCTION = (
    "Every process serves these at `/metrics`. This page is made from the code with `collafuse monitor metrics`;",
    "a test fails when the two differ. Times are in seconds, sizes in bytes. A histogram has the series",
    "`_bucket`, `_sum` and `_count`.",
    "",
    "**The budget of series.** No process has a device as a label but the exporter, which gives at most",
    f"{DEVICE_SERIES_MAX:,} devices series of their own (`device_series_max`; 0 for none), eleven each at most: those whose",
    "names begin with `collafuse_device_`. A device keeps them while it reports, and free places go to those heard of last;",
    "the others are counted by `collafuse_fleet_devices_unlisted`, and all are in the sums that begin with `collafuse_fleet_`.",
    f"Beside them `collafuse_fleet_distrusted` names {NAMED} devices at most.",
    "Of heads twenty are named, of clients with samples twenty; the rest is `other`. The number of series does not grow with",
    "the fleet beyond that. A device not heard of for a week (`device_expires_seconds`) is gone.",
)


_OF_DEVICES = (
    "**What is believed of a device.** What is beyond these bounds is left out and counted, by",
    "`collafuse_fleet_figures_unbelieved_total`, and for reports by `collafuse_fleet_reports_refused_total` with the reason",
    "`too_often`; for an interval the nearest bound is taken. What a device says it has done since its last report is left out",
    "if it is more than what is left of its allowance, which begins whole and rises with every second.",
)


@dataclass(frozen=True)
class CataloguedMetric:
    """One metric as an operator meets it."""

    process: str
    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus stores it."""
        stem = self.name.removesuffix("_total")
        return tuple(stem + suffix for suffix in _SUFFIXES[self.kind])


def catalogue() -> tuple[CataloguedMetric, ...]:
    """Every metric that some process of the project serves, by process, in the order of the code."""
    found: list[CataloguedMetric] = []
    for process, make in PROCESSES.items():
        metrics = [m for m in vars(make(CollectorRegistry())).values() if isinstance(m, MetricWrapperBase)]
        for metric in metrics:
            family = next(iter(metric.describe()))
            found.append(
                _catalogued(process, family.name, family.type, metric._labelnames, family.documentation)
            )
    collectors = (
        ("train or denoise worker on a machine with an NVIDIA GPU", GpuCollector(())),
        ("exporter", BrokerCollector(lambda: Reading((), Inboxes.of(())))),
        ("exporter", CertificateCollector(lambda: None)),
        ("exporter", FleetCollector(Fleet())),
    )
    for process, collector in collectors:
        for family in collector.describe():
            labels = getattr(family, "_labelnames", ())
            found.append(_catalogued(process, family.name, family.type, labels, family.documentation))
    return tuple(found)


def _catalogued(process: str, name: str, kind: str, labels: Iterable[str], meaning: str) -> CataloguedMetric:
    full_name = f"{name}_total" if kind == "counter" else name
    return CataloguedMetric(process, full_name, kind, tuple(labels), meaning)


def as_markdown() -> str:
    """The catalogue as a page: one table for each process."""
    lines = ["# Metrics", "", *_INTRODUCTION]
    metrics = catalogue()
    for process in dict.fromkeys(metric.process for metric in metrics):
        lines += [
            "",
            f"## {process[0].upper()}{process[1:]}",
            "",
            "| metric | kind | labels | meaning |",
            "|---|---|---|---|",
        ]
        for metric in metrics:
            if metric.process == process:
                labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
                lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    lines += ["", *_OF_DEVICES, "", *believed.as_markdown()]
    return "\n".join(lines) + "\n"
