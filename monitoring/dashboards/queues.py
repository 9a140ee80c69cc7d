"""Queues and lag: what waits, for how long, whether it gets better, and whether everybody has the broker."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.panel import Series, Stat, above, below
from monitoring.dashboards.query import OUR_PROCESSES, Query, increase, quantiles, rate

_WAITING = Row(
    "What waits",
    (
        Series(
            "Depth",
            "Messages in each queue: ready, and delivered without an acknowledgement.",
            "by itself nothing. Ready messages with consumers are load; without consumers somebody has to start a worker.",
            (Query("collafuse_queue_messages", "{{queue}} {{state}}"),),
            stacked=True,
            tabular=True,
            height=9,
        ),
        Series(
            "Age of the oldest message",
            "At least how long the first message of each queue has waited, right to within one scrape interval.",
            "a request that has waited two minutes, or samples that have waited half an hour: a worker holds them without"
            " finishing, or there are too few workers.",
            (Query("collafuse_queue_oldest_message_age_seconds", "{{queue}}"),),
            unit="s",
            steps=above(120),
            alerts=("CollafuseQueueOldestMessage",),
            tabular=True,
            height=9,
        ),
        Series(
            "Lag",
            "From publishing a message to its delivery, as the consumers measured it.",
            "requests that wait longer than half a minute to be taken. With full batches add denoisers; with small ones"
            " something else is slow: see Denoising.",
            (
                *quantiles("collafuse_consume_lag_seconds", 0.5, by="queue", prefix="{{queue}} "),
                Query("collafuse:consume_lag_seconds:p95", "{{queue}} 95 %"),
            ),
            unit="s",
            steps=above(30),
            alerts=("CollafuseQueueLag",),
            tabular=True,
            height=9,
        ),
        Series(
            "Time to drain",
            "How long it would take until nothing waits in a queue if nothing changed. While that is never, there is no line: see"
            " whether it shrinks.",
            "a long time: more comes in than the workers take, or nearly.",
            (Query("collafuse:queue_drain_seconds", "{{queue}}"),),
            unit="s",
            tabular=True,
            height=9,
        ),
        Series(
            "Does not shrink",
            "Yes for a queue in which messages wait and become no fewer: its time to drain is infinite.",
            "yes for longer than a peak lasts, but for `dead`, which nobody reads by intent.",
            (Query("collafuse:queue_drain_seconds == bool Inf", "{{queue}}"),),
            unit="bool_yes_no",
            tabular=True,
            height=9,
        ),
        Series(
            "In and out",
            "Messages published to each queue and acknowledged by its consumers, in a second.",
            "more in than out for longer than a peak lasts: the queue grows until the broker refuses what is sent there.",
            (
                rate("collafuse_queue_published_total", "{{queue}} in", "queue"),
                rate("collafuse_queue_acknowledged_total", "{{queue}} out", "queue"),
            ),
            unit="cps",
            tabular=True,
            height=9,
        ),
        Series(
            "Consumers",
            "How many read each queue. `dead` has none by intent.",
            "none for samples, denoise or prefetch while messages wait there: the worker is gone.",
            (Query("collafuse_queue_consumers", "{{queue}}"),),
            alerts=("CollafuseQueueNoConsumers", "CollafuseQueueMissing"),
            tabular=True,
            height=9,
        ),
        Series(
            "How full",
            "Of the bytes that each queue may hold.",
            "above 80 %: at 100 % the broker refuses what is sent there, and the devices keep it.",
            (Query("collafuse:queue_fill:ratio", "{{queue}}"),),
            unit="percentunit",
            steps=above(0.8),
            alerts=("CollafuseQueueNearlyFull",),
        ),
        Series(
            "Size",
            "Bytes of the bodies in each queue; their limits are in broker/topology.py.",
            "a size that grows while the depth does not: the messages have become larger.",
            (Query("collafuse_queue_message_bytes", "{{queue}}"),),
            unit="bytes",
        ),
        Series(
            "Inboxes",
            "Messages that wait for devices: in all inboxes together, and in the fullest.",
            "the fullest rising alone is one device that is away or does not finish what it gets; all of them rising is"
            " the network between devices and broker.",
            (
                Query("collafuse_inbox_messages", "in all inboxes"),
                Query("collafuse_inbox_messages_max", "in the fullest"),
            ),
        ),
    ),
)

_DEAD = Row(
    "Set aside",
    (
        Stat(
            "Dead letters",
            "Messages in the queue `dead`, each with the reason for which it was set aside.",
            "any. They wait for a person: nobody reads that queue.",
            (Query('sum(collafuse_queue_messages{queue="dead"})', "dead letters"),),
            steps=above(1),
            alerts=("CollafuseDeadLetters",),
            width=6,
        ),
        Series(
            "Refused, by reason",
            "Messages set aside in the last quarter of an hour, by queue and reason.",
            "a hundred for one reason: one sender is wrong throughout, and `collafuse broker dead list` says which.",
            (Query("collafuse:refused:increase15m", "{{queue}}: {{reason}}"),),
            steps=above(100),
            alerts=("CollafuseDeadLettersGrowing",),
            width=18,
        ),
    ),
)

_LINKS = Row(
    "Broker and connections",
    (
        Stat(
            "Broker",
            "Whether the broker's management API answers the exporter.",
            "down. Devices and workers wait and reconnect by themselves; nothing that was confirmed is lost.",
            (Query("collafuse_broker_up", "broker"),),
            steps=below(1),
            words={0: ("down", "red"), 1: ("up", "green")},
            alerts=("CollafuseBrokerDown",),
            width=4,
            height=8,
        ),
        Series(
            "Alarms",
            "1 while a node of the broker is short of memory or of disk.",
            "1: the broker accepts no message from anybody until memory or disk is free again.",
            (
                Query("max(rabbitmq_alarms_memory_used_watermark)", "memory"),
                Query("max(rabbitmq_alarms_free_disk_space_watermark)", "disk"),
            ),
            steps=above(1),
            alerts=("CollafuseBrokerAlarm",),
            width=6,
        ),
        Series(
            "Processes that answer",
            "By kind, the processes that answer Prometheus, and those of them whose connection to the broker stands.",
            "fewer than there should be. One that answers and is not connected has wrong credentials or no network.",
            (
                Query(f"sum by (job) ({OUR_PROCESSES})", "{{job}} answers"),
                Query("sum by (job) (collafuse_connected)", "{{job}} connected"),
            ),
            alerts=("CollafuseProcessDown", "CollafuseProcessMissing", "CollafuseProcessDisconnected"),
            tabular=True,
            width=8,
        ),
        Series(
            "Reconnects",
            "Connections made again after a loss, in the last quarter of an hour, by kind of process.",
            "more than five of one process: an unstable link, a proxy that closes idle connections, or two processes with one"
            " identity.",
            (increase("collafuse_reconnects_total", "{{job}}", "job", "15m"),),
            steps=above(5),
            alerts=("CollafuseReconnecting",),
            width=6,
        ),
        Series(
            "Failed publishes",
            "Publishes that the broker did not confirm, in the last five minutes. A worker's letter to a device that is gone is"
            " `unroutable` and no fault.",
            "`nacked` is a full queue, `blocked` an alarm, `unroutable` from a device a queue that is missing.",
            (increase("collafuse_publish_failures_total", "{{job}}: {{reason}}", "job, reason"),),
            alerts=("CollafusePublishesFailing",),
        ),
        Series(
            "Confirm time",
            "From sending a message to the broker's confirm, all processes.",
            "seconds: the broker's disk is slow, or a queue has lost its majority.",
            quantiles("collafuse_publish_confirm_seconds", 0.5, 0.95),
            unit="s",
        ),
        Series(
            "Confirms outstanding",
            "Messages sent and not yet confirmed, by kind of process.",
            "a line that stays above zero without falling: the broker takes messages and confirms none of them.",
            (Query("sum by (job) (collafuse_confirms_outstanding)", "{{job}}"),),
            alerts=("CollafuseConfirmsMissing",),
        ),
        Series(
            "Messages by type",
            "Published by our processes, by type of message; and delivered to them, by queue. In a second.",
            "a type that stops while the others go on.",
            (
                rate("collafuse_published_total", "{{type}} published", "type"),
                rate("collafuse_consumed_total", "{{queue}} consumed", "queue"),
            ),
            unit="cps",
            tabular=True,
            width=10,
        ),
        Series(
            "Time to read the broker",
            "How long the broker took to describe its queues to the exporter.",
            "near Prometheus' limit of ten seconds: then the exporter's figures go missing.",
            (Query("collafuse_broker_read_seconds", "reading"),),
            unit="s",
            steps=above(5),
            width=10,
        ),
        Stat(
            "Broker's certificate",
            "For so long the certificate is good that the broker shows; empty over an unencrypted link.",
            "less than three weeks: renew it. After its end nobody can connect.",
            (Query("min(collafuse_broker_certificate_expiry_timestamp_seconds) - time()", "good for"),),
            unit="s",
            steps=below(1_814_400),
            alerts=("CollafuseCertificateEnds",),
            width=4,
            height=8,
        ),
    ),
)

QUEUES = Dashboard(
    "queues",
    "CollaFuse: queues and lag",
    "What waits in which queue, for how long and whether it gets better; dead letters; who has the broker.",
    (_WAITING, _DEAD, _LINKS),
)
