"""What is kept: samples in segments, and the series of Prometheus."""

import math
from collections.abc import Iterable

from collafuse.plan.basis import Basis, Section
from collafuse.plan.item import Item
from collafuse.plan.traffic import DAY_SECONDS
from monitoring.catalogue import CataloguedMetric, catalogue

SEGMENT_BYTES = 64 * 2**20
"""Up to this size the store merges its segments."""

BYTES_PER_POINT = 2.0
"""Of one value of one series, on disk: Prometheus' documentation says 1 to 2."""

LABEL_VALUES = {
    "queue": 5,
    "state": 4,
    "reason": 12,
    "type": 9,
    "outcome": 5,
    "noise_level": 3,
    "provider": 2,
}
"""At most so many values of each label; of one that is not named here OTHER_VALUES."""

OTHER_VALUES = 20
DEVICE_PREFIX = "collafuse_device_"
LISTED_DEVICES = 1000
"""Of what is told of single devices the exporter keeps at most so many, whatever the fleet."""

_HISTOGRAM_SERIES = 20
"""Of the longest list of bounds: 17, +Inf, _sum and _count."""

_STORE = Section("samples")
_METRICS = Section("metrics")


def series_of(metrics: Iterable[CataloguedMetric], devices: int) -> int:
    """At most so many series, with so many devices."""
    each = {"histogram": _HISTOGRAM_SERIES, "counter": 1, "gauge": 1}
    return sum(each[metric.kind] * _label_values(metric, devices) for metric in metrics)


def _label_values(metric: CataloguedMetric, devices: int) -> int:
    if metric.name.startswith(DEVICE_PREFIX):
        return min(devices, LISTED_DEVICES)
    return math.prod(LABEL_VALUES.get(label, OTHER_VALUES) for label in metric.labels)


def series(workers: int, devices: int) -> int:
    """Of a train worker, the exporter and so many denoise workers together."""
    found: dict[str, list[CataloguedMetric]] = {}
    for metric in catalogue():
        found.setdefault(metric.process, []).append(metric)
    every, train, denoise, exporter = (
        series_of(found[process], devices)
        for process in ("every process", "train worker", "denoise worker", "exporter")
    )
    return every + train + workers * (every + denoise) + exporter


def store_items(basis: Basis) -> list[Item]:
    """The lines on the sample store."""
    demand, of = basis.demand, _STORE.item
    samples = demand.devices * demand.released_per_day * demand.retention_days
    size_bytes = samples * basis.sizes.stored_sample_bytes
    by_second = (
        basis.traffic.samples.peak_per_second
        * basis.sizes.images_per_samples
        * basis.sizes.stored_sample_bytes
    )
    ingest, opening = basis.figures["ingest_megabytes"], basis.figures["openings_of_100k_samples"]
    return [
        of("samples kept", samples, "samples", "derived", f"--retention-days {demand.retention_days:g}"),
        of(
            "bytes of a stored sample",
            basis.sizes.stored_sample_bytes,
            "bytes",
            "encoded",
            "a segment of one message",
        ),
        of(
            "sample store",
            size_bytes,
            "bytes",
            "derived",
            "samples times bytes; versions and checkpoints are not in it",
        ),
        of("segments", math.ceil(size_bytes / SEGMENT_BYTES), "segments", "derived", "merged, of 64 MiB"),
        of(
            "ingest, busiest hour",
            by_second / (ingest.value * 1e6),
            "of 1",
            "derived",
            f"{ingest.source}: {ingest.value:.0f} MB/s",
        ),
        of("opening the store", samples / 1e5 / opening.value, "s", "derived", opening.source),
    ]


def metrics_items(basis: Basis, workers: int | None) -> list[Item]:
    """The lines on Prometheus."""
    demand, of = basis.demand, _METRICS.item
    count = series(workers or 1, demand.devices)
    points = demand.metrics_days * DAY_SECONDS / demand.scrape_seconds
    who = (
        "a train worker, the exporter and one denoise worker"
        if workers is None
        else "train worker, exporter, denoise workers"
    )
    return [
        of(
            "series, at most",
            count,
            "series",
            "derived",
            f"{who}; RabbitMQ's own, and what a device serves itself, are not in it",
        ),
        of(
            "metrics",
            count * points * BYTES_PER_POINT,
            "bytes",
            "derived",
            f"{BYTES_PER_POINT:g} bytes a value, as Prometheus' documentation says",
        ),
    ]
