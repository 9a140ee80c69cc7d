"""Fleet: all devices together, from what they report through the broker; and the agents that Prometheus reads itself."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panel import Heatmap, Series, Stat, Table, above, below
from monitoring.dashboards.query import Query, buckets, increase, quantiles, rate

_THERE = Row(
    "Who is there",
    (
        Stat(
            "Connected",
            "Devices whose inbox is read now, of all that are enrolled.",
            "below half: if many left at once, look at the network and at the broker's certificate. Devices may be away by"
            " intent.",
            (Query("collafuse:devices_connected:ratio", "connected"),),
            unit="percentunit",
            steps=below(0.5, 0.8),
            alerts=("CollafuseDevicesDisconnected",),
            width=4,
            height=8,
        ),
        Series(
            "Devices",
            "Enrolled, connected, those that report of themselves, those silent for three of their own intervals, and those"
            " beyond the number that have series of their own.",
            "silent ones that are connected: their agents run and send nothing, which a metered link or a full outbox explains.",
            (
                Query("collafuse_inboxes", "enrolled"),
                Query("collafuse_inboxes_read", "connected"),
                Query("collafuse_fleet_devices", "{{state}}"),
                Query("collafuse_fleet_devices_unlisted", "unlisted"),
            ),
            width=10,
        ),
        Series(
            "Reports",
            "Reports taken in a second, and those refused by reason.",
            "refused ones: a device of another version, or somebody who writes what is no report.",
            (
                rate("collafuse_fleet_reports_total", "taken"),
                rate("collafuse_fleet_reports_refused_total", "refused: {{reason}}", "reason"),
            ),
            unit="cps",
            width=10,
        ),
        Series(
            "Still there",
            "Of the devices that reported at any time of the last hour, those that do now.",
            "below 80 %: many fell silent at once. An exporter that was started anew hears of all again within minutes.",
            (Query("collafuse:fleet_reporting:ratio", "report"),),
            unit="percentunit",
            steps=below(0.8),
            alerts=("CollafuseFleetSilent",),
        ),
        Series(
            "In trouble",
            "Of the devices that report, those whose oldest message has waited for an hour, and those that did not keep the head"
            " that they were sent last.",
            "above 5 %: it is no single device. The broker refuses or the network is bad; or that head is.",
            (
                Query("collafuse:fleet_late:ratio", "a message is late"),
                Query("collafuse:fleet_rejecting:ratio", "reject their head"),
            ),
            unit="percentunit",
            steps=above(0.05),
            alerts=("CollafuseFleetLate", "CollafuseFleetRejectsHead"),
        ),
        Series(
            "To be looked at",
            "Reporting devices that say that something is wrong with them, by what that is.",
            "any: a ledger that may have forgotten releases, a spool that was damaged, a head whose key is revoked or that runs"
            " on the CPU against its settings. The table below says on which devices.",
            (Query("sum by (trouble) (collafuse_fleet_troubled)", "{{trouble}}"),),
            steps=above(1),
            alerts=("CollafuseFleetTroubled",),
        ),
        Series(
            "Not believed",
            "Devices that within a quarter of an hour said what cannot be, sent what is no report, or reported far too often; and"
            " how often each figure was left out for that, in a second.",
            "any device by name: it lies, is broken, or is of another version. Its figures do not reach those of the fleet.",
            (
                Query("collafuse_fleet_distrusted", "{{device}}: {{cause}}"),
                rate("collafuse_fleet_figures_unbelieved_total", "{{figure}} in a second", "figure"),
            ),
            steps=above(1),
            alerts=("CollafuseDeviceDistrusted",),
            width=24,
        ),
    ),
)

_WORK = Row(
    "Work",
    (
        Series(
            "Jobs of the fleet",
            "Picture jobs ended in a second, by outcome.",
            "`failed` or `expired` rising: requests that are not answered in time, or heads that cannot finish them.",
            (rate("collafuse_fleet_jobs_total", "{{outcome}}", "outcome"),),
            unit="cps",
            alerts=("CollafuseFleetJobsFailing",),
        ),
        Series(
            "Releases of the fleet",
            "Images released to the server in a second.",
            "none while a round is open: devices are away, metered, or have spent their budget.",
            (rate("collafuse_fleet_releases_total", "images"),),
            unit="cps",
        ),
        Series(
            "Steps on the devices",
            "One network call of the head with its sampler step, by provider.",
            "a head that should run on a GPU and appears under `cpu`.",
            quantiles("collafuse_fleet_head_step_seconds", 0.5, 0.95, by="provider", prefix="{{provider}} "),
            unit="s",
        ),
        Series(
            "Outboxes, bytes",
            "What waits on all reporting devices for the broker's confirm.",
            "a rise of all at once: the broker refuses, or its alarm is on.",
            (Query("collafuse_fleet_outbox_bytes", "all reporting devices"),),
            unit="bytes",
        ),
        Series(
            "Outboxes, oldest message",
            "The longest that a message waits on any reporting device.",
            "an hour: that device's publishes are refused, or it is let on the network seldom. The table below names it.",
            (Query("collafuse_fleet_outbox_oldest_seconds", "oldest"),),
            unit="s",
            steps=above(3600),
            alerts=("CollafuseOutboxOld",),
        ),
        Series(
            "Stock",
            "Samples at the cut that the devices keep to make pictures offline, and how many there are to be.",
            "far below what is wanted: prefetch does not keep up; see Denoising.",
            (
                Query("collafuse_fleet_pool_images", "in stock"),
                Query("collafuse_fleet_pool_wanted", "wanted"),
            ),
        ),
        Series(
            "Energy of a picture",
            "Energy of a finished picture: the median of the devices that know it.",
            "a rise with a new head: it is dearer than the one before.",
            (Query("collafuse_fleet_image_joules", "energy"),),
            unit="joule",
        ),
        Series(
            "Privacy",
            "Epsilon of the image that has cost most on any reporting device.",
            "above what was promised to the people whose images they are. A device that can promise nothing tells none.",
            (Query("collafuse_fleet_epsilon_max", "epsilon of the dearest image"),),
        ),
        Series(
            "Heads in use",
            "Devices by head, version and provider.",
            "an old version that does not become less: those devices refuse the new one, or never hear of it.",
            (Query("collafuse_fleet_heads", "{{head}} {{version}} on {{provider}}"),),
            stacked=True,
            tabular=True,
        ),
        Series(
            "Heads on their way",
            "Devices by what became of the bundle they dealt with last.",
            "`refused`, `failed` or `rolled_back`: those devices run the head before. Stop the roll-out if there are many.",
            (Query("collafuse_fleet_updates", "{{state}}"),),
            stacked=True,
            tabular=True,
            width=24,
        ),
    ),
)

_LISTED = Row(
    "Each device",
    (
        Table(
            "Every device",
            "A line for each device that has series of its own: of more than a thousand, those that fell silent last, those"
            " whose messages wait longest, and others.",
            "a report that is old, a message that waits long, an epsilon above what was promised. A click on the name shows the"
            " device.",
            (
                Query("sum by (device) (collafuse_device_reporting)", "reports", "bool_yes_no"),
                Query(
                    "time() - max by (device) (collafuse_device_last_report_timestamp_seconds)",
                    "last report, ago",
                    "s",
                ),
                Query("max by (device) (collafuse_device_outbox_oldest_seconds)", "oldest message", "s"),
                Query("max by (device) (collafuse_device_outbox_bytes)", "outbox", "bytes"),
                Query("max by (device) (collafuse_device_epsilon_max)", "epsilon"),
                Query("max by (device) (collafuse_device_troubled)", "to be looked at", "bool_yes_no"),
            ),
            labels={"device": "device"},
            click=(
                "device",
                "This device",
                "/d/collafuse-device?var-device=${__value.raw}&${datasource:queryparam}&${__url_time_range}",
            ),
            nothing="no device has reported",
            height=10,
        ),
    ),
)

_READ = Row(
    "Agents that Prometheus reads itself",
    (
        Heatmap(
            "Step latency",
            "Time of one network call of the head with its sampler step.",
            "a second band: some agents run their head on the CPU.",
            buckets("collafuse_head_step_seconds"),
            unit="s",
        ),
        Series(
            "Step latency by provider",
            "The same as quantiles, by onnxruntime's provider.",
            "a head that should run on a GPU and appears under `cpu`.",
            (
                *quantiles("collafuse_head_step_seconds", 0.5, by="provider", prefix="{{provider}} "),
                Query("collafuse:head_step_seconds:p95", "{{provider}} 95 %"),
            ),
            unit="s",
        ),
        Series(
            "Heads and providers",
            "Agents by provider; those whose head fell back to the CPU; those whose head bears a key that is trusted no longer.",
            "any fallback, and any head of a revoked key.",
            (
                Query("sum by (provider) (collafuse_head_info)", "head on {{provider}}"),
                Query("sum(collafuse_head_fallback)", "fell back to the CPU"),
                Query("sum(collafuse_head_key_revoked)", "head of a revoked key"),
            ),
            alerts=("CollafuseHeadOnCpu", "CollafuseHeadKeyRevoked"),
        ),
        Series(
            "Head numbers",
            "Counters in the manifests of the heads in use: the newest and the oldest. A device without a head counts as 0.",
            "lines that stay apart after a roll-out.",
            (
                Query("max(collafuse_head_number)", "newest"),
                Query("min(collafuse_head_number)", "oldest"),
            ),
        ),
        Series(
            "Head deliveries",
            "Agents by the state of the delivered head that something happened to last.",
            "`failed`, `refused` or `rolled_back`.",
            (Query("sum by (state) (collafuse_head_update)", "{{state}}"),),
        ),
        Series(
            "Time of a job",
            "From an app's request to its finished images.",
            "far more than Denoising's end-to-end time: the head is slow, or the device was offline.",
            quantiles("collafuse_job_seconds", 0.5, 0.95),
            unit="s",
        ),
        Series(
            "Jobs",
            "Ended in a second by outcome, and those made from the stock.",
            "`failed` or `expired`.",
            (
                rate("collafuse_jobs_total", "{{outcome}}", "outcome"),
                rate("collafuse_jobs_from_pool_total", "from the stock"),
            ),
            unit="cps",
        ),
        Series(
            "Late results",
            "Results of the last half hour that came when their job had ended.",
            "more than ten: the queue is longer than apps wait, so work is done for nobody.",
            (increase("collafuse_late_results_total", "late", window="30m"),),
            steps=above(10),
            alerts=("CollafuseLateResults",),
        ),
        Series(
            "Outbox messages",
            "Messages that wait for the broker's confirm: together, and on the agent with most.",
            "a rise while the agent is connected: its publishes are refused.",
            (
                Query("sum(collafuse_outbox_messages)", "together"),
                Query("max(collafuse_outbox_messages)", "the most"),
            ),
        ),
        Series(
            "Outbox age",
            "Age of the oldest message, by agent.",
            "an hour.",
            (Query("max by (instance) (collafuse_outbox_oldest_seconds)", "{{instance}}"),),
            unit="s",
            steps=above(3600),
            alerts=("CollafuseOutboxOld",),
        ),
        Series(
            "Outbox size",
            "Bytes of the messages that wait, by agent.",
            "near outbox_max_bytes: from there on the agent takes no release and no job.",
            (Query("max by (instance) (collafuse_outbox_bytes)", "{{instance}}"),),
            unit="bytes",
        ),
        Series(
            "Releases and receipts",
            "Images released and batches that the server says it stored, in a second.",
            "releases without receipts for long: the samples wait in the outbox or in the queue.",
            (
                rate("collafuse_releases_total", "images released"),
                rate("collafuse_receipts_total", "receipts"),
            ),
            unit="cps",
        ),
        Series(
            "Privacy and ledgers",
            "Epsilon of the image that has cost most; releases that the budget refused in the last hour; ledgers that may have"
            " forgotten something.",
            "an incomplete ledger: that device may have released more than it knows, and releases nothing before somebody looks.",
            (
                Query("max(collafuse_ledger_epsilon_max)", "epsilon of the dearest image"),
                increase("collafuse_releases_refused_total", "refused by the budget", window="1h"),
                Query("sum(collafuse_ledger_incomplete)", "incomplete ledgers"),
            ),
            alerts=("CollafuseLedgerIncomplete",),
        ),
        Series(
            "Damage and strangers",
            "Spools that were set aside as damaged, and letters of the last hour whose sender had no business with the agent.",
            "any spool is a failing disk; any letter is somebody who tries, or rights that are mixed up.",
            (
                Query("sum(collafuse_quarantined_spools)", "damaged spools"),
                increase("collafuse_strangers_total", "letters of strangers", window="1h"),
            ),
            steps=above(1),
            alerts=("CollafuseSpoolDamaged", "CollafuseStrangers"),
        ),
        Series(
            "Stock of these agents",
            "Samples at the cut in stock, and how many there are to be.",
            "far below what is wanted.",
            (
                Query("sum(collafuse_pool_images)", "in stock"),
                Query("sum(collafuse_pool_wanted)", "wanted"),
            ),
        ),
    ),
)

FLEET = Dashboard(
    "fleet",
    "CollaFuse: fleet",
    "All devices together, from what they report through the broker; and the agents that Prometheus reads itself.",
    (_THERE, _LISTED, _WORK, _READ),
)
