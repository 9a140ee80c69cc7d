"""What the answers of the local API share: where things are, the desk that does the work, and what is remembered meanwhile."""

import threading
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from edge_agent.generation import jobs
from edge_agent.generation.jobs import Job
from edge_agent.local.access import Access
from edge_agent.local.desk import Desk
from edge_agent.local.problem import Problem
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory

MAX_STREAMS = 32


@dataclass(eq=False)
class Office:
    """One per server; `streams` is the number of event streams that are open, `stopping` ends them."""

    settings: EdgeSettings
    state: StateDirectory
    registry: CollectorRegistry
    access: Access
    desk: Desk
    stopping: threading.Event
    streams: int = 0


def found_job(spool: Spool, job_id: str) -> Job:
    """The job that a request names. Raises Problem 404 when there is none."""
    job = jobs.find(spool, job_id)
    if job is None:
        raise Problem(404, "no_such_job", "there is no such job; ended jobs are removed after a while")
    return job
