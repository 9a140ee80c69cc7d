"""Denoising: the server's half of the chain, from a request in the queue to the confirm of its last part."""

from monitoring.dashboards.dashboard import Dashboard, Row
from monitoring.dashboards.gpus import gpu_row
from monitoring.dashboards.panel import Heatmap, Series, above
from monitoring.dashboards.query import Query, buckets, quantiles, rate

_REQUESTS = Row(
    "Requests",
    (
        Series(
            "End to end",
            "From the moment a device published a request to the broker's confirm of the last part of its answer.",
            "far more than the time at the worker beside it: the rest is spent in the queue, so add denoisers.",
            quantiles("collafuse_denoise_end_to_end_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Series(
            "At the worker",
            "From taking a request to publishing its last part.",
            "a rise with large batches is load, a rise with small batches is a slow network call.",
            quantiles("collafuse_request_seconds", 0.5, 0.95, 0.99),
            unit="s",
        ),
        Series(
            "In the queue",
            "From publishing a request to its delivery to a worker; 95 % are faster.",
            "more than half a minute: too few workers, or slow ones.",
            (Query('collafuse:consume_lag_seconds:p95{queue=~"denoise|prefetch"}', "{{queue}} 95 %"),),
            unit="s",
            steps=above(30),
            alerts=("CollafuseQueueLag",),
            leads_to="collafuse-queues",
        ),
        Series(
            "Ended, by outcome",
            "Requests that ended in a second.",
            "`failed`: the workers' logs name the reason beside each request_id; schedule mismatches come first.",
            (rate("collafuse_requests_total", "{{outcome}}", "outcome"),),
            unit="reqps",
        ),
        Series(
            "Failed, of all",
            "The share of the requests that ended in the last ten minutes and failed.",
            "above one in twenty.",
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
        ),
        Series(
            "In hand",
            "Samples that workers have begun, and requests that they have taken and not begun.",
            "requests that wait at a worker while another worker has none: lower --requests-in-hand.",
            (
                Query("sum(collafuse_samples_running)", "samples running"),
                Query("sum(collafuse_requests_waiting)", "requests waiting"),
            ),
        ),
    ),
)

_STEPS = Row(
    "Network calls",
    (
        Heatmap(
            "Step latency",
            "Time of one network call with its sampler step, all workers.",
            "two bands: one worker is slower than the others, or batches of two sizes alternate.",
            buckets("collafuse_denoise_step_seconds"),
            unit="s",
        ),
        Series(
            "Step latency as quantiles",
            "The same; and the time between two steps, in which the worker chooses samples, sends answers and takes requests.",
            "a step of more than a second: the wrong device, or another process on it. Between steps as long as a step: the"
            " worker does not compute half of its time.",
            (
                *quantiles("collafuse_denoise_step_seconds", 0.5, by="provider", prefix="{{provider}} "),
                Query("collafuse:denoise_step_seconds:p95", "{{provider}} 95 %"),
                *quantiles("collafuse_denoise_idle_seconds", 0.95, prefix="between steps, "),
            ),
            unit="s",
            steps=above(1),
            alerts=("CollafuseDenoiseSlow",),
        ),
        Series(
            "Calls in a second",
            "Calls of the backbone network, by worker.",
            "zero while requests wait: the worker is stuck. One worker far below the others: it is slow.",
            (
                Query(
                    "sum by (instance) (rate(collafuse_network_calls_total[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
            unit="ops",
        ),
        Heatmap(
            "Batch occupancy",
            "Samples that shared one network call.",
            "small batches beside a growing queue: something other than the network is slow.",
            buckets("collafuse_denoise_batch_samples"),
        ),
        Series(
            "Batch occupancy, mean",
            "Samples in a network call, on average.",
            "at its largest while the queue grows: more workers are needed.",
            (Query("collafuse:denoise_batch_samples:mean", "samples in a call"),),
        ),
        Series(
            "Versions in use",
            "The backbone version of each trainer, newest and best, and of each denoise worker, by which of them it follows.",
            "a worker below the trainer for a quarter of an hour: it does not see the trainer's storage.",
            (
                Query(
                    "max by (job, instance, follow) (collafuse_backbone_version)",
                    "{{job}} {{instance}}, {{follow}}",
                ),
            ),
            alerts=("CollafuseVersionsDiffer",),
        ),
    ),
)

_GPU = gpu_row(
    "denoiser",
    "denoisers'",
    full="in use near all there is: the next larger batch or version ends the process.",
    idle="low while requests wait: the worker runs on the CPU, or the batches are too small.",
)

DENOISING = Dashboard(
    "denoising",
    "CollaFuse: denoising",
    "The server's half of the chain: how long requests take and where, how full the calls are, which versions are in use.",
    (_REQUESTS, _STEPS, _GPU),
)
