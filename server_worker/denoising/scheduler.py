"""Which samples share the next network call: continuous batching, as a pure policy.

Samples of any request join the running batch at any step, whatever their plan, and leave it when their plan is done. Nothing here
knows torch, the clock or the broker: time is passed in, decisions come out.

Samples of one request that join together stay together, as a `Group`: they are at the same step of the same plan, so one integer
says where all of them are, and the bookkeeping of a step is per group and not per sample.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

INTERACTIVE = "interactive"
PREFETCH = "prefetch"


@dataclass(frozen=True)
class Limits:
    """The budgets.

    max_batch: samples in one network call, at most.
    prefetch_share: this part of the batch is kept for prefetch while any waits, so that it is never starved; 0..1.
    """

    max_batch: int
    prefetch_share: float = 0.125

    @property
    def prefetch_reserve(self) -> int:
        """Samples kept for prefetch while any waits; never the whole batch unless it is asked for."""
        return min(self.max_batch, ceil(self.prefetch_share * self.max_batch))


@dataclass(frozen=True)
class Job:
    """One request, as the scheduler sees it.

    key: unique among the jobs in hand.
    client: whose it is; clients share fairly.
    samples: how many.
    evaluations: network calls that each sample needs.
    priority: INTERACTIVE or PREFETCH.
    arrived_seconds: when it was taken, on the clock of `now_seconds`.
    deadline_seconds: after this it is of no use to anybody; None: never.
    """

    key: str
    client: str
    samples: int
    evaluations: int
    priority: str
    arrived_seconds: float
    deadline_seconds: float | None = None


@dataclass(frozen=True)
class Group:
    """Samples first..first+count-1 of one job in the running batch, `done` of its evaluations behind them."""

    key: str
    client: str
    priority: str
    first: int
    count: int
    done: int
    evaluations: int


@dataclass(frozen=True)
class _Waiting:
    """A job with samples that have not joined yet; `next` is the first of them."""

    job: Job
    next: int = 0

    @property
    def left(self) -> int:
        return self.job.samples - self.next


class Scheduler:
    """The samples that wait and the samples that run.

    The life of a step: `admit` lets waiting samples join, the engine makes one network call for all of `running`, and
    `advance` says which groups are done.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._running: deque[Group] = deque()

    @property
    def running(self) -> tuple[Group, ...]:
        """The groups of the next network call."""
        return tuple(self._running)

    @property
    def samples_running(self) -> int:
        """Samples in the batch now."""
        return sum(group.count for group in self._running)

    @property
    def jobs_waiting(self) -> int:
        """Jobs with samples that have not joined the batch yet."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._running and not self._waiting

    def add(self, job: Job) -> None:
        """Queue a job behind those of its priority. A job without evaluations must be answered without the scheduler."""
        if job.samples < 1 or job.evaluations < 1:
            raise ValueError(f"job {job.key} needs at least one sample and one evaluation")
        self._waiting.append(_Waiting(job))

    def admit(self) -> tuple[Group, ...]:
        """Let waiting samples join as far as the budget goes; returns the groups that joined."""
        joined: list[Group] = []
        free = self.limits.max_batch - self.samples_running
        if free > 0 and self._waiting:
            kept = self._kept_for_prefetch()
            joined += self._admit_from(INTERACTIVE, free - kept)
            free -= sum(group.count for group in joined)
            joined += self._admit_from(PREFETCH, free)
        self._running.extend(joined)
        return tuple(joined)

    def advance(self) -> tuple[Group, ...]:
        """Count one network call for every running group; returns those that are done, which leave the batch."""
        stepped = [replace(group, done=group.done + 1) for group in self._running]
        finished = tuple(group for group in stepped if group.done == group.evaluations)
        self._running = deque(group for group in stepped if group.done < group.evaluations)
        return finished

    def expired(self, now_seconds: float) -> tuple[str, ...]:
        """The keys of waiting jobs whose deadline has passed; jobs with samples in the batch are let finish."""
        started = {group.key for group in self._running}
        return tuple(
            waiting.job.key
            for waiting in self._waiting
            if waiting.next == 0
            and waiting.job.key not in started
            and waiting.job.deadline_seconds is not None
            and now_seconds >= waiting.job.deadline_seconds
        )

    def untouched(self) -> tuple[str, ...]:
        """The keys of jobs none of whose samples has joined yet."""
        return tuple(waiting.job.key for waiting in self._waiting if waiting.next == 0)

    def drop(self, keys: Iterable[str]) -> None:
        """Forget jobs, waiting and running."""
        gone = set(keys)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.job.key not in gone)
        self._running = deque(group for group in self._running if group.key not in gone)

    def _kept_for_prefetch(self) -> int:
        """How much of the free room interactive samples must leave, because prefetch waits with less than its share."""
        waiting = sum(waiting.left for waiting in self._waiting if waiting.job.priority == PREFETCH)
        running = sum(group.count for group in self._running if group.priority == PREFETCH)
        return max(0, min(self.limits.prefetch_reserve - running, waiting))

    def _admit_from(self, priority: str, room: int) -> list[Group]:
        """Share `room` among the clients that wait: each sample goes to the client with the fewest, the eldest job first."""
        queues: dict[str, deque[_Waiting]] = {}
        for waiting in self._waiting:
            if waiting.job.priority == priority:
                queues.setdefault(waiting.job.client, deque()).append(waiting)
        shares = dict.fromkeys(queues, 0)
        for group in self._running:
            if group.client in shares:
                shares[group.client] += group.count
        taken = _fair_shares(
            shares, {client: sum(w.left for w in queue) for client, queue in queues.items()}, room
        )
        joined = [group for client, count in taken.items() for group in _take(queues[client], count)]
        heads = {group.key: group.first + group.count for group in joined}
        self._waiting = deque(
            moved
            for waiting in self._waiting
            if (moved := replace(waiting, next=heads.get(waiting.job.key, waiting.next))).left > 0
        )
        return joined


def _fair_shares(running: dict[str, int], wanted: dict[str, int], room: int) -> dict[str, int]:
    """How many samples of each client join, so that the running totals come out as even as `wanted` and `room` allow."""
    taken = dict.fromkeys(wanted, 0)
    for _ in range(max(0, room)):
        hungry = [client for client in wanted if taken[client] < wanted[client]]
        if not hungry:
            break
        if len(hungry) == 1:
            client = hungry[0]
            taken[client] += min(wanted[client] - taken[client], room - sum(taken.values()))
            break
        taken[min(hungry, key=lambda client: running[client] + taken[client])] += 1
    return taken


def _take(queue: deque[_Waiting], count: int) -> list[Group]:
    """The next `count` samples of one client's jobs, as groups, eldest job first."""
    groups = []
    for waiting in queue:
        if count <= 0:
            break
        job, size = waiting.job, min(waiting.left, count)
        groups.append(Group(job.key, job.client, job.priority, waiting.next, size, 0, job.evaluations))
        count -= size
    return groups
