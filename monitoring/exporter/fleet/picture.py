"""The fleet at one moment, as the collector of metrics gets it."""

from collections.abc import Mapping
from dataclasses import dataclass

from monitoring.exporter.fleet.device import DeviceState, Head
from monitoring.exporter.fleet.doubts import Cause


@dataclass(frozen=True)
class Totals:
    """What was counted since somebody listens; it never falls.

    Attributes:
        jobs: outcome → how many.
        releases, reports: how many.
        refused: reason → messages that were no report.
        unbelieved: figure (one of FIGURES) → reports in which it could not be so.
        steps: provider → the head's step times over STEP_BUCKETS_SECONDS, and their sum in seconds.
    """

    jobs: Mapping[str, int]
    releases: int
    reports: int
    refused: Mapping[str, int]
    unbelieved: Mapping[str, int]
    steps: Mapping[str, tuple[tuple[int, ...], float]]


@dataclass(frozen=True)
class Picture:
    """The fleet at one moment. Sums and heads are those of the devices that report.

    Attributes:
        reporting, silent: how many devices.
        unlisted: those of both that are not in `listed`.
        late: reporting devices whose oldest message has waited for an hour or longer.
        heads: (head, devices), most devices first, OTHER_HEAD last.
        updates: state of the bundle dealt with last → devices.
        outbox_oldest_seconds, epsilon_max: the largest; None when no device tells.
        image_joules: the median, which one device cannot move far; None when no device tells.
        troubled: of TROUBLES → devices.
        distrusted: (device or OTHERS, cause) → devices.
        listed: (user, state, whether it reports), by name.
    """

    reporting: int
    silent: int
    unlisted: int
    late: int
    heads: tuple[tuple[Head, int], ...]
    updates: Mapping[str, int]
    outbox_bytes: float
    outbox_oldest_seconds: float | None
    pool_images: float
    pool_wanted: float
    epsilon_max: float | None
    image_joules: float | None
    troubled: Mapping[str, int]
    distrusted: Mapping[tuple[str, Cause], int]
    listed: tuple[tuple[str, DeviceState, bool], ...]
    totals: Totals
