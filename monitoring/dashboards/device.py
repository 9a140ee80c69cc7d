"""Device: one device as it reports of itself, beside the fleet."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panel import Series, Stat, Table, above, below
from monitoring.dashboards.query import Query, quantiles

THIS = '{device="$device"}'

_NOW = Row(
    "Now",
    (
        Stat(
            "Reports",
            "Whether it has reported within three of its own intervals.",
            "silent: switched off, without a network, or let on it only at certain hours.",
            (Query(f"collafuse_device_reporting{THIS}", "reports"),),
            steps=below(1),
            words={0: ("silent", "red"), 1: ("reports", "green")},
        ),
        Stat(
            "Last report",
            "How long ago.",
            "longer than it is usually away.",
            (Query(f"time() - collafuse_device_last_report_timestamp_seconds{THIS}", "ago"),),
            unit="s",
        ),
        Stat(
            "Running for",
            "How long its agent had been running at its last report.",
            "short again and again: the agent dies and is started anew; read its log.",
            (Query(f"collafuse_device_uptime_seconds{THIS}", "running"),),
            unit="s",
        ),
        Stat(
            "Oldest message",
            "How long the first message of its outbox had waited.",
            "an hour: its publishes are refused, or it is seldom connected.",
            (Query(f"collafuse_device_outbox_oldest_seconds{THIS}", "oldest"),),
            unit="s",
            steps=above(3600),
            alerts=("CollafuseOutboxOld",),
        ),
        Stat(
            "Outbox",
            "Bytes that wait there.",
            "near outbox_max_bytes, 256 MiB if not set otherwise.",
            (Query(f"collafuse_device_outbox_bytes{THIS}", "outbox"),),
            unit="bytes",
        ),
        Stat(
            "Stock",
            "Samples at the cut that it keeps to make pictures offline.",
            "none on a device that is to work offline.",
            (Query(f"collafuse_device_pool_images{THIS}", "in stock"),),
        ),
        Stat(
            "Epsilon",
            "Of the image that has cost most on this device.",
            "above what was promised to the people whose images they are.",
            (Query(f"collafuse_device_epsilon_max{THIS}", "epsilon"),),
        ),
        Stat(
            "Energy of a picture",
            "Mean energy of a finished picture, where the device knows it.",
            "above its budget; see budget_joules.",
            (Query(f"collafuse_device_image_joules{THIS}", "energy"),),
            unit="joule",
        ),
        Table(
            "Head",
            "The head that it runs, and where.",
            "an old version after a roll-out, or `cpu` on a device with a GPU.",
            (Query(f"collafuse_device_head_info{THIS}", "runs"),),
            labels={"head": "head", "version": "version", "provider": "provider"},
            values=False,
            nothing="no head",
            height=4,
        ),
    ),
)

_TIME = Row(
    "Over time",
    (
        Series(
            "Age of its last report",
            "It falls to zero with every report.",
            "teeth that grow: the link is bad. A line that only rises: it is gone.",
            (Query(f"time() - collafuse_device_last_report_timestamp_seconds{THIS}", "age"),),
            unit="s",
            width=12,
        ),
        Series(
            "Step on this device, and on the fleet",
            "Mean time of a network call of its head since the report before, beside the median of all devices by provider.",
            "many times the median of its provider: it is busy with something else, throttled, or old.",
            (
                Query(f"collafuse_device_head_step_seconds{THIS}", "this device"),
                *quantiles(
                    "collafuse_fleet_head_step_seconds", 0.5, by="provider", prefix="fleet, {{provider}} "
                ),
            ),
            unit="s",
            width=12,
        ),
        Series(
            "Outbox over time",
            "Bytes that wait for the broker's confirm.",
            "a line that only rises: nothing gets through.",
            (Query(f"collafuse_device_outbox_bytes{THIS}", "bytes"),),
            unit="bytes",
            width=12,
        ),
        Series(
            "Oldest message over time",
            "Age of the first message of its outbox.",
            "an hour.",
            (Query(f"collafuse_device_outbox_oldest_seconds{THIS}", "oldest"),),
            unit="s",
            steps=above(3600),
            width=12,
        ),
        Series(
            "Stock over time",
            "Samples at the cut.",
            "a stock that is not filled up again after use: prefetch does not keep up.",
            (Query(f"collafuse_device_pool_images{THIS}", "in stock"),),
            width=12,
        ),
        Series(
            "Epsilon over time",
            "Of the image that has cost most.",
            "a rise past what was promised. It never falls.",
            (Query(f"collafuse_device_epsilon_max{THIS}", "epsilon"),),
            width=12,
        ),
    ),
)

DEVICE = Dashboard(
    "device",
    "CollaFuse: device",
    "One device as it reports of itself, through the broker.",
    (_NOW, _TIME),
    chosen=("device", "collafuse_device_reporting"),
)
