"""The row of a server process's GPUs."""

from monitoring.dashboards.dashboard import Row
from monitoring.dashboards.panel import Series
from monitoring.dashboards.query import Query


def gpu_row(job: str, whose: str, *, full: str, idle: str) -> Row:
    """Memory and utilisation.

    Args:
        job: Prometheus's name of the processes.
        whose: as the titles say it.
        full: what it means when the memory is nearly all in use.
        idle: what it means when the GPU computes little.
    """
    memory = f'collafuse_gpu_memory_bytes{{job="{job}", state="%s"}}'
    return Row(
        "GPU (empty where there is none)",
        (
            Series(
                f"Memory of the {whose} GPUs",
                "Memory in use and all there is.",
                full,
                (
                    Query(memory % "used", "{{instance}} {{gpu}} used"),
                    Query(memory % "total", "{{instance}} {{gpu}} in all"),
                ),
                unit="bytes",
                width=12,
            ),
            Series(
                f"Utilisation of the {whose} GPUs",
                "Share of the time in which the GPU computed something.",
                idle,
                (Query(f'collafuse_gpu_utilisation_ratio{{job="{job}"}}', "{{instance}} {{gpu}}"),),
                unit="percentunit",
                width=12,
            ),
        ),
    )
