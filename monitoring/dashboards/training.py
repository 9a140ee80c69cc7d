"""Training: samples on their way into the store, the backbone's steps and losses, and its versions."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.gpus import gpu_row
from monitoring.dashboards.panel import Series, Stat, above
from monitoring.dashboards.query import Query, increase, quantiles, rate

_SAMPLES = Row(
    "Samples",
    (
        Stat(
            "Ingest",
            "Whether the sample store takes samples in.",
            "paused: the store is full or read-only. Samples stay in their queue, and ingest resumes by itself.",
            (Query("max(collafuse_ingest_paused)", "ingest"),),
            steps=above(1),
            words={0: ("running", "green"), 1: ("paused", "red")},
            alerts=("CollafuseIngestPaused",),
            width=4,
            height=4,
        ),
        Stat(
            "Samples in the store",
            "What training draws from.",
            "a number that falls without a forgotten client or a retention: somebody else writes to the store.",
            (Query("sum(collafuse_store_samples)", "samples"),),
            width=4,
            height=4,
        ),
        Stat(
            "Saving",
            "Whether checkpoints and versions can be written.",
            "fails: the storage is full or read-only. What is trained is lost when the trainer ends.",
            (Query("max(collafuse_train_save_failing)", "saving"),),
            steps=above(1),
            words={0: ("works", "green"), 1: ("fails", "red")},
            alerts=("CollafuseTrainingUnsaved",),
            width=4,
            height=4,
        ),
        Series(
            "Stored",
            "Samples made durable in a second; those recognised as repeats; those dropped because their sender is forgotten.",
            "nothing stored while the queue `samples` grows. Repeats are harmless.",
            (
                rate("collafuse_samples_stored_total", "stored"),
                rate("collafuse_samples_duplicate_total", "repeats"),
                rate("collafuse_samples_forgotten_total", "of forgotten senders"),
            ),
            unit="cps",
            width=6,
        ),
        Series(
            "Samples by client",
            "What the store holds of each client; of the twenty with most, the others together.",
            "one client with nearly all: the backbone learns its images above all.",
            (Query("sum by (client) (collafuse_store_client_samples)", "{{client}}"),),
            tabular=True,
            width=6,
        ),
        Series(
            "Size of the store",
            "Bytes of the sample store.",
            "near its quota or its disk: ingest pauses there.",
            (Query("sum(collafuse_store_bytes)", "bytes"),),
            unit="bytes",
        ),
        Series(
            "Quotas used",
            "Of store_max_bytes (store), and of client_max_bytes by the client that has most (client); empty without a quota.",
            "above 90 %: from all of it on ingest pauses (store), or that client's batches are set aside (client).",
            (Query("max by (quota) (collafuse_store_quota_used_ratio)", "{{quota}}"),),
            unit="percentunit",
            steps=above(0.9),
            alerts=("CollafuseStoreNearlyFull", "CollafuseClientOverQuota"),
        ),
        Series(
            "Waiting samples",
            "Age of the oldest message in the queue `samples`.",
            "half an hour: the trainer does not run, or its store takes nothing.",
            (Query('collafuse_queue_oldest_message_age_seconds{queue="samples"}', "oldest"),),
            unit="s",
            steps=above(1800),
            alerts=("CollafuseQueueOldestMessage",),
            leads_to="collafuse-queues",
        ),
    ),
)

_LEARNING = Row(
    "Learning",
    (
        Series(
            "Training loss",
            "Mean of recent steps, by third of the noise range.",
            "above ten: it has diverged. Stop it, lower the rate, go on from the last checkpoint.",
            (Query("collafuse_train_loss", "{{noise_level}} noise"),),
            steps=above(10),
            alerts=("CollafuseTrainingDiverged",),
        ),
        Series(
            "Loss on held-out releases",
            "That of the newest version on releases kept from training, by third of the noise range.",
            "it rises while the training loss falls: the backbone learns its samples by heart, and `best` stays behind.",
            (Query("collafuse_held_out_loss", "{{noise_level}} noise"),),
            alerts=("CollafuseHeldOutLossRising",),
        ),
        Series(
            "Versions",
            "The newest version that the trainer has published and the best one, and the oldest that a denoise worker serves for"
            " each of them.",
            "lines that part for longer than a denoise worker takes to load a version.",
            (
                Query('max by (follow) (collafuse_backbone_version{job="trainer"})', "published, {{follow}}"),
                Query(
                    'min by (follow) (collafuse_backbone_version{job="denoiser"})',
                    "oldest in use, {{follow}}",
                ),
            ),
            alerts=("CollafuseVersionsDiffer",),
            leads_to="collafuse-denoising",
        ),
        Series(
            "Steps in a second",
            "Optimiser steps of the backbone.",
            "none while there are samples; a trainer that has done the steps it was given is silent by intent.",
            (rate("collafuse_train_steps_total", "steps"),),
            unit="ops",
            alerts=("CollafuseTrainingStalled",),
        ),
        Series(
            "Steps that changed nothing",
            "Of the last quarter of an hour, because their gradient was not finite.",
            "a tenth of all steps: samples with huge values, or a learning rate that is too high.",
            (
                increase("collafuse_train_steps_skipped_total", "skipped", window="15m"),
                increase("collafuse_train_steps_total", "all", window="15m"),
            ),
            alerts=("CollafuseTrainingSkipsSteps",),
        ),
        Series(
            "Time of a step",
            "One optimiser step, drawing its samples included.",
            "a rise with the same batch: the disk is slow, or the device is shared.",
            quantiles("collafuse_train_step_seconds", 0.5, 0.95),
            unit="s",
        ),
    ),
)

_GPU = gpu_row(
    "trainer",
    "trainer's",
    full="in use near all there is: a larger batch ends the process.",
    idle="low while it trains: it waits for samples, or runs on the CPU.",
)

TRAINING = Dashboard(
    "training",
    "CollaFuse: training",
    "Samples on their way into the store, how the backbone learns from them, and its versions.",
    (_SAMPLES, _LEARNING, _GPU),
)
