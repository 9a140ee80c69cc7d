"""Every operation of the local API."""

from edge_agent.local import device_answers, jobs_answers, picture_answers
from edge_agent.local.operation import IMAGE, JOB, Operation, Parameter, Reply
from edge_agent.local.schema import (
    JOB_ID,
    Accepted,
    Health,
    ImagesRequest,
    JobList,
    JobView,
    Ledger,
    Status,
)

_PNG = "image/png"
_NPY = "application/octet-stream"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST",
        "/v1/images",
        "makeImages",
        "Ask for images; the job that is accepted will end",
        jobs_answers.make_images,
        (Reply(202, "the job was accepted", Accepted),),
        (
            Parameter(
                "idempotency-key",
                "header",
                "a request repeated with the same key and body makes no second job for as long as the first is kept",
                r"^[A-Za-z0-9._:-]{1,128}$",
            ),
        ),
        ImagesRequest,
        (408, 409, 413, 415, 422, 429, 507),
    ),
    Operation(
        "GET",
        "/v1/jobs",
        "listJobs",
        "The newest jobs",
        jobs_answers.list_jobs,
        (Reply(200, "jobs, newest first", JobList),),
        (
            Parameter("limit", "query", "how many; 20 if left out", least=1, most=100),
            Parameter("before", "query", "only jobs accepted before this one", JOB_ID),
        ),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}",
        "showJob",
        "One job as it stands",
        jobs_answers.show_job,
        (Reply(200, "the job", JobView),),
        (JOB,),
        problems=(404,),
    ),
    Operation(
        "DELETE",
        "/v1/jobs/{job_id}",
        "cancelJob",
        "End a job that is not wanted any more",
        jobs_answers.cancel_job,
        (Reply(200, "the job, which failed with the reason `cancelled`", JobView),),
        (JOB,),
        problems=(404, 409, 507),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/events",
        "followJob",
        "Server-sent events: `progress` whenever the job has moved, then one `end`; the data is the job",
        jobs_answers.follow_job,
        (
            Reply(200, "a stream of events", None, "text/event-stream"),
            Reply(204, "the end was seen before (Last-Event-ID)", None, None),
        ),
        (
            JOB,
            Parameter(
                "seconds", "query", "end the stream after so long; 600 if left out", least=0, most=3600
            ),
        ),
        problems=(404,),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/images/{n}.png",
        "showImage",
        "A finished image",
        picture_answers.finished_png,
        (Reply(200, "the image", None, _PNG),),
        (JOB, IMAGE),
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/images/{n}/cut.png",
        "showImageAtCut",
        "The same image at the cut, as it was when the head began",
        picture_answers.cut_png,
        (Reply(200, "the image at the cut", None, _PNG),),
        (JOB, IMAGE),
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/images/{n}/steps.png",
        "showImageSteps",
        "Film strip of the head's steps, from the cut to the finished image",
        picture_answers.steps_png,
        (Reply(200, "pictures side by side", None, _PNG),),
        (JOB, IMAGE),
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/images.npy",
        "downloadImages",
        "All finished images, (count, C, H, W) float32 in [-1, 1]",
        picture_answers.images_npy,
        (Reply(200, "a NumPy array", None, _NPY),),
        (JOB,),
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/jobs/{job_id}/latents.npy",
        "downloadLatents",
        "All images at the cut, (count, C, H, W) float32",
        picture_answers.latents_npy,
        (Reply(200, "a NumPy array", None, _NPY),),
        (JOB,),
        problems=(404, 409),
    ),
    Operation(
        "GET",
        "/v1/status",
        "showStatus",
        "How the device stands: link, outbox, head, ledger, jobs",
        device_answers.show_status,
        (Reply(200, "what `collafuse edge status --json` prints", Status),),
    ),
    Operation(
        "GET",
        "/v1/ledger",
        "showLedger",
        "What this device has disclosed, image by image",
        device_answers.show_ledger,
        (Reply(200, "the ledger", Ledger),),
        (
            Parameter("limit", "query", "how many images; 50 if left out", least=1, most=500),
            Parameter("after", "query", "only images after this digest", r"^[0-9a-f]{1,128}$"),
        ),
    ),
    Operation(
        "GET",
        "/metrics",
        "showMetrics",
        "The agent's metrics for Prometheus",
        device_answers.show_metrics,
        (Reply(200, "metrics", None, "text/plain"),),
    ),
    Operation(
        "GET",
        "/healthz",
        "showHealth",
        "Whether the page answers",
        device_answers.show_health,
        (Reply(200, "it does", Health),),
    ),
)
