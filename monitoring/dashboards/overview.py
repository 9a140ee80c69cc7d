"""Overview: is something wrong, what, and on which dashboard to go on."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.denoising import DENOISING
from monitoring.dashboards.fleet import FLEET
from monitoring.dashboards.panel import Panel, Series, Stat, Table, above, below
from monitoring.dashboards.query import OUR_PROCESSES, Query, quantiles, rate
from monitoring.dashboards.queues import QUEUES
from monitoring.dashboards.training import TRAINING


def _area(dashboard: Dashboard) -> Panel:
    """How many of a dashboard's alerts fire."""
    names = "|".join(dashboard.alerts)
    return Stat(
        dashboard.title.partition(": ")[2].capitalize(),
        f"Alerts that fire among those of the dashboard “{dashboard.title}”.",
        "any. Click to go there.",
        (Query(f'count(ALERTS{{alertstate="firing", alertname=~"{names}"}}) or vector(0)', "alerts"),),
        steps=above(1),
        words={0: ("no alert", "green")},
        leads_to=dashboard.uid,
        width=6,
    )


_NOW = Row(
    "What is wrong",
    (
        *(_area(dashboard) for dashboard in (QUEUES, DENOISING, TRAINING, FLEET)),
        Table(
            "Alerts that fire",
            "Every alert that fires now, and on what.",
            "any line. `page` means now, `ticket` within the working day. A click on the name opens its runbook.",
            (Query('ALERTS{alertstate="firing"}', "fires"),),
            labels={
                "alertname": "alert",
                "severity": "severity",
                "job": "process",
                "instance": "where",
                "queue": "queue",
                "reason": "reason",
            },
            click=("alertname", "Runbook", "${runbooks}/${__value.raw}.md"),
            values=False,
            nothing="nothing fires",
            height=7,
        ),
    ),
)

_WHERE = Row(
    "Where",
    (
        Stat(
            "Broker",
            "Whether the broker's management API answers the exporter.",
            "down.",
            (Query("collafuse_broker_up", "broker"),),
            steps=below(1),
            words={0: ("down", "red"), 1: ("up", "green")},
            alerts=("CollafuseBrokerDown",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Broker's alarms",
            "Alarms for memory and disk.",
            "any: the broker accepts no message.",
            (
                Query(
                    "max(rabbitmq_alarms_memory_used_watermark) + max(rabbitmq_alarms_free_disk_space_watermark)",
                    "alarms",
                ),
            ),
            steps=above(1),
            words={0: ("none", "green")},
            alerts=("CollafuseBrokerAlarm",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Processes gone",
            "Processes of ours that do not answer Prometheus. Agents that it reads are counted, though a device raises no alert.",
            "any that nobody stopped by intent.",
            (Query(f"count({OUR_PROCESSES} == 0) or vector(0)", "gone"),),
            steps=above(1),
            alerts=("CollafuseProcessDown", "CollafuseProcessMissing"),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Without the broker",
            "Processes of the server that run and have no connection to the broker.",
            "any: wrong credentials, or no network.",
            (Query('count(collafuse_connected{job!="edge"} == 0) or vector(0)', "unconnected"),),
            steps=above(1),
            alerts=("CollafuseProcessDisconnected",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Dead letters",
            "Messages set aside with a reason.",
            "any: they wait for a person.",
            (Query('sum(collafuse_queue_messages{queue="dead"})', "dead letters"),),
            steps=above(1),
            alerts=("CollafuseDeadLetters",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Fullest queue",
            "Of the bytes that it may hold.",
            "above 80 %: the broker will refuse what is sent there.",
            (Query("max(collafuse:queue_fill:ratio)", "full"),),
            unit="percentunit",
            steps=above(0.8, 0.5),
            alerts=("CollafuseQueueNearlyFull",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Oldest request",
            "At least how long the oldest denoise request has waited.",
            "two minutes: people wait for their pictures.",
            (Query('collafuse_queue_oldest_message_age_seconds{queue="denoise"}', "oldest"),),
            unit="s",
            steps=above(120, 30),
            alerts=("CollafuseQueueOldestMessage",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Nobody reads",
            "Work queues in which messages wait and that nobody reads.",
            "any: the worker is gone.",
            (
                Query(
                    'count(collafuse_queue_consumers{queue=~"samples|denoise|prefetch"} == 0'
                    " and on (queue) collafuse:queue_messages > 0) or vector(0)",
                    "queues",
                ),
            ),
            steps=above(1),
            alerts=("CollafuseQueueNoConsumers",),
            leads_to=QUEUES.uid,
        ),
        Stat(
            "Wait for a worker",
            "From publishing a request to its delivery; 95 % are faster.",
            "half a minute: too few denoise workers, or slow ones.",
            (Query('collafuse:consume_lag_seconds:p95{queue="denoise"}', "95 %"),),
            unit="s",
            steps=above(30, 10),
            alerts=("CollafuseQueueLag",),
            leads_to=DENOISING.uid,
        ),
        Stat(
            "Failed requests",
            "Of those that ended in the last ten minutes.",
            "one in twenty.",
            (
                Query(
                    '(sum(rate(collafuse_requests_total{outcome="failed"}[10m])) or vector(0))'
                    " / sum(rate(collafuse_requests_total[10m]))",
                    "failed",
                ),
            ),
            unit="percentunit",
            steps=above(0.05),
            alerts=("CollafuseRequestsFailing",),
            leads_to=DENOISING.uid,
        ),
        Stat(
            "Versions behind",
            "The trainer's newest version, or its best for workers that follow the best, less the oldest that a denoise worker"
            " serves.",
            "one or more for a quarter of an hour: a worker does not see the trainer's storage.",
            (Query("max(collafuse:backbone_versions_behind)", "versions"),),
            steps=above(1),
            alerts=("CollafuseVersionsDiffer",),
            leads_to=DENOISING.uid,
        ),
        Stat(
            "Ingest",
            "Whether the sample store takes samples in.",
            "paused: the store is full or read-only.",
            (Query("max(collafuse_ingest_paused)", "ingest"),),
            steps=above(1),
            words={0: ("running", "green"), 1: ("paused", "red")},
            alerts=("CollafuseIngestPaused",),
            leads_to=TRAINING.uid,
        ),
        Stat(
            "Training loss",
            "The highest of the three thirds of the noise range.",
            "above ten: the training has diverged.",
            (Query("max(collafuse_train_loss)", "loss"),),
            steps=above(10),
            alerts=("CollafuseTrainingDiverged",),
            leads_to=TRAINING.uid,
        ),
        Stat(
            "Devices connected",
            "Of all that are enrolled.",
            "below half, unless they are away by intent.",
            (Query("collafuse:devices_connected:ratio", "connected"),),
            unit="percentunit",
            steps=below(0.5, 0.8),
            alerts=("CollafuseDevicesDisconnected",),
            leads_to=FLEET.uid,
        ),
        Stat(
            "Devices silent",
            "Devices without a report for three of their own intervals.",
            "many at once.",
            (Query('collafuse_fleet_devices{state="silent"}', "silent"),),
            leads_to=FLEET.uid,
        ),
        Stat(
            "Oldest outbox message",
            "The longest that a message waits on any reporting device.",
            "an hour.",
            (Query("collafuse_fleet_outbox_oldest_seconds", "oldest"),),
            unit="s",
            steps=above(3600, 600),
            alerts=("CollafuseOutboxOld",),
            leads_to=FLEET.uid,
        ),
    ),
)

_FLOW = Row(
    "How it flows",
    (
        Series(
            "Pictures",
            "Denoise requests ended in a second, by outcome.",
            "`failed`, or none while messages wait in `denoise`.",
            (rate("collafuse_requests_total", "{{outcome}}", "outcome"),),
            unit="reqps",
            leads_to=DENOISING.uid,
        ),
        Series(
            "Time of a request",
            "From its publishing by the device to the confirm of the last part of the answer.",
            "a rise: see on Denoising whether it waits or is computed slowly.",
            quantiles("collafuse_denoise_end_to_end_seconds", 0.5, 0.95),
            unit="s",
            leads_to=DENOISING.uid,
        ),
        Series(
            "Messages waiting",
            "In each queue.",
            "a line that only rises.",
            (Query("collafuse:queue_messages", "{{queue}}"),),
            leads_to=QUEUES.uid,
        ),
        Series(
            "Samples stored",
            "In a second.",
            "none while messages wait in `samples`.",
            (rate("collafuse_samples_stored_total", "stored"),),
            unit="cps",
            leads_to=TRAINING.uid,
        ),
        Series(
            "Training steps",
            "In a second.",
            "none while there are samples, unless the trainer has done the steps it was given.",
            (rate("collafuse_train_steps_total", "steps"),),
            unit="ops",
            alerts=("CollafuseTrainingStalled",),
            leads_to=TRAINING.uid,
        ),
        Series(
            "Devices",
            "That report, that are silent, and that are connected.",
            "a fall of many at once.",
            (
                Query("collafuse_fleet_devices", "{{state}}"),
                Query("collafuse_inboxes_read", "connected"),
            ),
            leads_to=FLEET.uid,
        ),
    ),
)

OVERVIEW = Dashboard(
    "overview",
    "CollaFuse: overview",
    "Is something wrong, what, and where to go on: every tile leads to the dashboard of its cause, every alert to its runbook.",
    (_NOW, _WHERE, _FLOW),
)
