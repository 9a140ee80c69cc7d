"""What each process measures.

Every class takes the registry that its metrics are to live in, so that tests and several agents in one
process do not share counters. Names are in base units (seconds, bytes); no metric has a client or device as
a label.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STEP_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONFIRM_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAIT_BUCKETS_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    1800.0,
)
LAG_BUCKETS_SECONDS = (*WAIT_BUCKETS_SECONDS, 7200.0, 86400.0)
BATCH_BUCKETS_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

NOISE_LEVELS = ("low", "middle", "high")


class BrokerMetrics:
    """A connection to the broker, seen from the process that holds it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge(
            "collafuse_connected", "1 while the connection to the broker stands.", registry=registry
        )
        self.reconnects_total = Counter(
            "collafuse_reconnects_total", "Connections made again after a loss.", registry=registry
        )
        self.published_total = Counter(
            "collafuse_published_total", "Messages confirmed by the broker.", ["type"], registry=registry
        )
        self.publish_failures_total = Counter(
            "collafuse_publish_failures_total",
            "Publishes that the broker did not confirm.",
            ["reason"],
            registry=registry,
        )
        self.publish_confirm_seconds = Histogram(
            "collafuse_publish_confirm_seconds",
            "From sending a message to the broker's confirm.",
            buckets=CONFIRM_BUCKETS_SECONDS,
            registry=registry,
        )
        self.confirms_outstanding = Gauge(
            "collafuse_confirms_outstanding", "Messages sent and not yet confirmed.", registry=registry
        )
        self.consumed_total = Counter(
            "collafuse_consumed_total", "Messages delivered to this process.", ["queue"], registry=registry
        )
        self.consume_lag_seconds = Histogram(
            "collafuse_consume_lag_seconds",
            "From publishing a message to its delivery here.",
            ["queue"],
            buckets=LAG_BUCKETS_SECONDS,
            registry=registry,
        )
        self.refused_total = Counter(
            "collafuse_refused_total",
            "Messages set aside in the dead-letter queue by this process.",
            ["queue", "reason"],
            registry=registry,
        )


class TrainMetrics:
    """The train worker: what it has stored and how the backbone learns."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.samples_stored_total = Counter(
            "collafuse_samples_stored_total", "Released samples made durable.", registry=registry
        )
        self.samples_duplicate_total = Counter(
            "collafuse_samples_duplicate_total", "Samples recognised as repeats.", registry=registry
        )
        self.samples_forgotten_total = Counter(
            "collafuse_samples_forgotten_total",
            "Samples dropped because their sender is forgotten.",
            registry=registry,
        )
        self.store_samples = Gauge(
            "collafuse_store_samples", "Samples in the store that training draws from.", registry=registry
        )
        self.store_client_samples = Gauge(
            "collafuse_store_client_samples",
            "Samples in the store by client; beyond the twenty with most, client is other.",
            ["client"],
            registry=registry,
        )
        self.store_bytes = Gauge("collafuse_store_bytes", "Bytes of the sample store.", registry=registry)
        self.store_quota_used_ratio = Gauge(
            "collafuse_store_quota_used_ratio",
            "Share of a quota that is used, where one is set: store for all samples, client for the client that has most.",
            ["quota"],
            registry=registry,
        )
        self.ingest_paused = Gauge(
            "collafuse_ingest_paused", "1 while the store is full or read-only.", registry=registry
        )
        self.train_save_failing = Gauge(
            "collafuse_train_save_failing",
            "1 while the newest checkpoint or version could not be written.",
            registry=registry,
        )
        self.train_steps_total = Counter(
            "collafuse_train_steps_total", "Optimiser steps of the backbone.", registry=registry
        )
        self.train_steps_skipped_total = Counter(
            "collafuse_train_steps_skipped_total",
            "Optimiser steps that changed nothing, for their gradient was not finite.",
            registry=registry,
        )
        self.train_step_seconds = Histogram(
            "collafuse_train_step_seconds",
            "One optimiser step, data loading included.",
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.train_loss = Gauge(
            "collafuse_train_loss",
            "Mean loss of recent steps by third of the noise range.",
            ["noise_level"],
            registry=registry,
        )
        self.held_out_loss = Gauge(
            "collafuse_held_out_loss",
            "Mean loss of the newest version on releases kept from training, by third of the noise range.",
            ["noise_level"],
            registry=registry,
        )
        self.backbone_version = Gauge(
            "collafuse_backbone_version",
            "Number of the newest backbone version (latest), and of that which did best on held-out releases (best).",
            ["follow"],
            registry=registry,
        )
        self.backbone_version.labels(follow="latest")


class DenoiseMetrics:
    """A denoise worker: requests, batches and the time of a step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.denoise_step_seconds = Histogram(
            "collafuse_denoise_step_seconds",
            "One network call with its sampler step, on the server, by where it runs: cpu or cuda.",
            ["provider"],
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.denoise_idle_seconds = Histogram(
            "collafuse_denoise_idle_seconds",
            "Between two consecutive steps: choosing samples, sending answers, taking requests.",
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.denoise_batch_samples = Histogram(
            "collafuse_denoise_batch_samples",
            "Samples that shared one network call (occupancy).",
            buckets=BATCH_BUCKETS_SAMPLES,
            registry=registry,
        )
        self.network_calls_total = Counter(
            "collafuse_network_calls_total", "Calls of the backbone network.", registry=registry
        )
        self.requests_total = Counter(
            "collafuse_requests_total",
            "Denoise requests ended here, by outcome; requeued ones go on elsewhere.",
            ["outcome"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "collafuse_request_seconds",
            "From taking a request to publishing its last part.",
            buckets=WAIT_BUCKETS_SECONDS,
            registry=registry,
        )
        self.end_to_end_seconds = Histogram(
            "collafuse_denoise_end_to_end_seconds",
            "From a device's publishing a request, by its clock, to the broker's confirm of the last part of the answer.",
            buckets=LAG_BUCKETS_SECONDS,
            registry=registry,
        )
        self.samples_running = Gauge(
            "collafuse_samples_running", "Samples begun and not done.", registry=registry
        )
        self.requests_waiting = Gauge(
            "collafuse_requests_waiting", "Requests taken and not begun.", registry=registry
        )
        self.backbone_version = Gauge(
            "collafuse_backbone_version",
            "Number of the backbone version that is served, 0 before the first; follow: which one it is to be.",
            ["follow"],
            registry=registry,
        )


class EdgeMetrics:
    """An edge agent: its outbox, its jobs and its head."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.head_step_seconds = Histogram(
            "collafuse_head_step_seconds",
            "One network call with its sampler step, on the device.",
            ["provider"],
            buckets=STEP_BUCKETS_SECONDS,
            registry=registry,
        )
        self.outbox_messages = Gauge(
            "collafuse_outbox_messages", "Messages waiting for the broker's confirm.", registry=registry
        )
        self.outbox_bytes = Gauge("collafuse_outbox_bytes", "Bytes of those messages.", registry=registry)
        self.outbox_oldest_seconds = Gauge(
            "collafuse_outbox_oldest_seconds", "Age of the oldest of them.", registry=registry
        )
        self.releases_total = Counter(
            "collafuse_releases_total", "Images released to the outbox.", registry=registry
        )
        self.releases_refused_total = Counter(
            "collafuse_releases_refused_total",
            "Releases refused because they would have taken their image past the privacy budget.",
            registry=registry,
        )
        self.ledger_epsilon_max = Gauge(
            "collafuse_ledger_epsilon_max",
            "Epsilon of the image that has cost most, at the device's delta; 0 for none, infinite where nothing is promised.",
            registry=registry,
        )
        self.receipts_total = Counter(
            "collafuse_receipts_total", "Batches that the server says it stored.", registry=registry
        )
        self.jobs_total = Counter(
            "collafuse_jobs_total", "Generation jobs ended, by outcome.", ["outcome"], registry=registry
        )
        self.jobs_from_pool_total = Counter(
            "collafuse_jobs_from_pool_total",
            "Generation jobs whose samples at the cut came from the device's stock.",
            registry=registry,
        )
        self.pool_images = Gauge(
            "collafuse_pool_images", "Samples at the cut in stock, of all labels.", registry=registry
        )
        self.pool_wanted = Gauge(
            "collafuse_pool_wanted", "Samples at the cut that there are to be in stock.", registry=registry
        )
        self.job_seconds = Histogram(
            "collafuse_job_seconds",
            "From an app's request to its finished images.",
            buckets=WAIT_BUCKETS_SECONDS,
            registry=registry,
        )
        self.late_results_total = Counter(
            "collafuse_late_results_total", "Results for jobs already ended, dropped.", registry=registry
        )
        self.ledger_incomplete = Gauge(
            "collafuse_ledger_incomplete",
            "1 while releases may have been forgotten and the operator has not acknowledged it.",
            registry=registry,
        )
        self.quarantined_spools = Gauge(
            "collafuse_quarantined_spools",
            "Damaged spools that were set aside and are still there.",
            registry=registry,
        )
        self.head_info = Gauge(
            "collafuse_head_info", "1 for the provider that runs the head.", ["provider"], registry=registry
        )
        self.head_number = Gauge(
            "collafuse_head_number",
            "Counter in the manifest of the head in use, 0 while there is none.",
            registry=registry,
        )
        self.head_update = Gauge(
            "collafuse_head_update",
            "1 for the state of the delivered head that something happened to last.",
            ["state"],
            registry=registry,
        )
        self.strangers_total = Counter(
            "collafuse_strangers_total",
            "Letters in the inbox whose sender had no business with this device, dropped.",
            registry=registry,
        )
        self.head_fallback = Gauge(
            "collafuse_head_fallback",
            "1 while the head runs on the CPU because the provider asked for is not there.",
            registry=registry,
        )
        self.head_key_revoked = Gauge(
            "collafuse_head_key_revoked",
            "1 while the head in use is one whose key is trusted no longer.",
            registry=registry,
        )
