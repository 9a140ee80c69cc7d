"""Which samples share the next network call: continuous batching, as a pure policy.

Samples of any request take part in any call, whatever their plan and however far they are, and leave when their plan is done.
A sample that has begun may sit out a call: its state waits in memory, which costs nothing. So nothing here is ever stuck
behind what was let in before it: every call is shared out anew,

- between interactive samples and prefetch: interactive first, prefetch in the room they leave, but never less than its share;
- between clients: each sample of room goes to the client that has been served least;
- within a client: the eldest request first.

Nothing here knows torch, the clock or the broker: time is passed in, decisions come out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heapreplace

from server_worker.denoising.step_cost import StepCost

INTERACTIVE = "interactive"
PREFETCH = "prefetch"

BEGUN_BATCHES, BEGUN_AT_LEAST = 4, 64


@dataclass(frozen=True)
class Limits:
    """The budgets.

    max_batch: samples in one network call, at most.
    prefetch_share: this part of all network evaluations is prefetch's while any waits, so that it is never starved; 0..1.
    interactive_slowdown: beside interactive samples, prefetch fills a call only as far as it takes at most so many times as
    long as it would without; needs `cost`.
    max_begun: samples of either priority begun and not done, at most, and one for each client beyond: a bound on memory. 0 for
    BEGUN_BATCHES calls' worth.
    cost: seconds of a call; None when not known, and then prefetch takes whatever room there is.
    """

    max_batch: int
    prefetch_share: float = 0.125
    interactive_slowdown: float = 1.5
    max_begun: int = 0
    cost: StepCost | None = None

    @property
    def begun_budget(self) -> int:
        """`max_begun`, or its default; never below one call's worth."""
        return max(self.max_begun or max(BEGUN_BATCHES * self.max_batch, BEGUN_AT_LEAST), self.max_batch)


@dataclass(frozen=True)
class Job:
    """One request, as the scheduler sees it.

    key: unique among the jobs in hand.
    client: whose it is; clients share fairly.
    samples: how many.
    evaluations: network calls that each sample needs.
    priority: INTERACTIVE or PREFETCH.
    deadline_seconds: after this it is of no use to anybody, on the clock of `expired`; None: never.
    """

    key: str
    client: str
    samples: int
    evaluations: int
    priority: str
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Samples first..first+count-1 of one job, `done` of their evaluations behind them."""

    key: str
    first: int
    count: int
    done: int


@dataclass(eq=False)
class _Progress:
    """A job and where its samples are.

    runs: those that have begun, as neighbours at the same step: (first, count, done).  next: from here on none has.
    """

    job: Job
    runs: list[tuple[int, int, int]] = field(default_factory=list)
    next: int = 0
    finished: int = 0

    @property
    def left(self) -> int:
        return self.job.samples - self.finished

    @property
    def begun(self) -> int:
        return self.next - self.finished


@dataclass(eq=False)
class _Client:
    """One client's jobs of one priority, eldest first, and how much it was served.

    served: evaluations, on a scale that all clients of the priority share: one that comes, or comes back, starts where the
    least served is now, and one that wants little is lifted to those who want more. So nothing is earned by not asking.
    """

    name: str
    jobs: dict[str, _Progress] = field(default_factory=dict)
    served: int = 0

    @property
    def left(self) -> int:
        return sum(progress.left for progress in self.jobs.values())

    @property
    def begun(self) -> int:
        return sum(progress.begun for progress in self.jobs.values())


class Scheduler:
    """The samples that wait and the samples that run.

    The life of a step: `select` says which samples make up the next call, the engine makes it, and `advance` counts it and says
    which are done.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._clients: dict[str, dict[str, _Client]] = {INTERACTIVE: {}, PREFETCH: {}}
        self._jobs: dict[str, _Progress] = {}
        self._selected: list[tuple[_Progress, Group]] = []
        self._owed = 0.0

    @property
    def samples_begun(self) -> int:
        """Samples that have begun and are not done."""
        return sum(progress.begun for progress in self._jobs.values())

    @property
    def jobs_waiting(self) -> int:
        """Jobs none of whose samples has begun."""
        return sum(progress.next == 0 for progress in self._jobs.values())

    @property
    def idle(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self._jobs

    def add(self, job: Job) -> None:
        """Take a job in. One without evaluations must be answered without the scheduler."""
        if job.samples < 1 or job.evaluations < 1:
            raise ValueError(f"job {job.key} needs at least one sample and one evaluation")
        if job.key in self._jobs:
            raise ValueError(f"job {job.key} is in hand already")
        clients = self._clients[job.priority]
        client = clients.get(job.client)
        if client is None:
            served = min((other.served for other in clients.values()), default=0)
            client = clients[job.client] = _Client(job.client, served=served)
        client.jobs[job.key] = self._jobs[job.key] = _Progress(job)

    def select(self) -> tuple[Group, ...]:
        """The samples of the next call, at most `max_batch`; empty only when there is nothing left to do."""
        interactive = sum(client.left for client in self._clients[INTERACTIVE].values())
        prefetch = sum(client.left for client in self._clients[PREFETCH].values())
        room = self._prefetch_room(interactive, prefetch)
        groups = self._share_out(INTERACTIVE, self.limits.max_batch - min(room, prefetch))
        taken = sum(group.count for group in groups)
        more = self._share_out(PREFETCH, room)
        self._owe(taken, sum(group.count for group in more), waits=prefetch > 0)
        selected = (*groups, *more)
        self._selected = [(self._jobs[group.key], group) for group in selected]
        return selected

    def advance(self) -> tuple[Group, ...]:
        """Count one evaluation for every selected sample; returns those that are done, which leave."""
        finished = []
        stepped: dict[str, _Progress] = {}
        for progress, group in self._selected:
            if self._jobs.get(group.key) is not progress:
                continue  # dropped since, and perhaps taken in anew
            stepped[group.key] = progress
            if group.done + 1 == progress.job.evaluations:
                finished.append(replace(group, done=group.done + 1))
                progress.finished += group.count
            else:
                progress.runs.append((group.first, group.count, group.done + 1))
        for key, progress in stepped.items():
            progress.runs = _merged(progress.runs)
            if not progress.left:
                self._remove(key)
        self._selected = []
        return tuple(finished)

    def expired(self, now_seconds: float) -> tuple[str, ...]:
        """The keys of jobs whose deadline has passed, begun or not: nobody waits for them any more."""
        return tuple(
            key
            for key, progress in self._jobs.items()
            if progress.job.deadline_seconds is not None and now_seconds >= progress.job.deadline_seconds
        )

    def untouched(self) -> tuple[str, ...]:
        """The keys of jobs none of whose samples has begun."""
        return tuple(key for key, progress in self._jobs.items() if progress.next == 0)

    def drop(self, keys: Iterable[str]) -> None:
        """Forget jobs, begun or not; a key that is not in hand is no error."""
        for key in keys:
            if key in self._jobs:
                self._remove(key)

    def _remove(self, key: str) -> None:
        job = self._jobs.pop(key).job
        clients = self._clients[job.priority]
        client = clients[job.client]
        del client.jobs[key]
        if not client.jobs:
            del clients[job.client]

    def _prefetch_room(self, interactive: int, prefetch: int) -> int:
        """How many samples of the next call may be prefetch's."""
        limits = self.limits
        if not prefetch:
            return 0
        if not interactive:
            return limits.max_batch
        alone = min(interactive, limits.max_batch)
        room = limits.max_batch - alone
        if limits.cost is not None:
            seconds = limits.cost.of(alone) * limits.interactive_slowdown
            room = min(room, max(0, limits.cost.samples_within(seconds) - alone))
        return min(max(room, int(self._owed)), limits.max_batch)

    def _owe(self, interactive: int, prefetch: int, *, waits: bool) -> None:
        """Keep the account of what prefetch is owed, in evaluations; it neither saves up while it is idle nor runs into debt."""
        if not waits:
            self._owed = 0.0
            return
        owed = self._owed + self.limits.prefetch_share * (interactive + prefetch) - prefetch
        self._owed = min(max(owed, 0.0), float(self.limits.max_batch))

    def _share_out(self, priority: str, room: int) -> list[Group]:
        """Fill `room` from the clients of one priority, as far as the budget lets samples begin."""
        clients = list(self._clients[priority].values())
        left = {client.name: client.left for client in clients}
        free = self.limits.begun_budget - sum(client.begun for client in clients)
        shares = _fair_shares(clients, room, free)
        groups: list[Group] = []
        for client in clients:
            _take(client, shares[client.name], groups.append)
            client.served += shares[client.name]
        # Who got all it could use has no claim to what it did not use: it goes on level with those who wanted more.
        wanting = [client.served for client in clients if shares[client.name] < left[client.name]]
        for client in clients:
            if wanting and shares[client.name] == left[client.name]:
                client.served = max(client.served, min(wanting))
        return groups


def _fair_shares(clients: list[_Client], room: int, free: int) -> dict[str, int]:
    """How much of `room` each client may use: one sample at a time to whoever was served least, until nobody can use more.

    free: samples that may begin. A client that has none in memory may begin one all the same, so that none waits for others.
    """
    left = {client.name: client.left for client in clients}
    begun = {client.name: client.begun for client in clients}
    shares = dict.fromkeys(left, 0)
    heap = [(client.served, client.name) for client in clients]
    heapify(heap)
    while room > 0 and heap:
        served, name = heap[0]
        begins = shares[name] >= begun[name]
        if shares[name] == left[name] or (begins and free <= 0 and (begun[name] or shares[name])):
            heappop(heap)
            continue
        shares[name] += 1
        room -= 1
        free -= begins
        heapreplace(heap, (served + 1, name))
    return shares


def _take(client: _Client, share: int, put: Callable[[Group], None]) -> None:
    """Select `share` samples of one client, the eldest job first: a younger one begins when all of the elder has begun."""
    for progress in client.jobs.values():
        if share <= 0:
            return
        key, kept = progress.job.key, []
        for first, count, done in progress.runs:
            part = min(count, share)
            if part:
                put(Group(key, first, part, done))
                share -= part
            if part < count:
                kept.append((first + part, count - part, done))
        progress.runs = kept
        new = min(progress.job.samples - progress.next, share)
        if new > 0:
            put(Group(key, progress.next, new, 0))
            progress.next += new
            share -= new


def _merged(runs: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs in order, neighbours at the same step as one."""
    merged: list[tuple[int, int, int]] = []
    for first, count, done in sorted(runs):
        before = merged[-1] if merged else (0, 0, -1)
        if before[0] + before[1] == first and before[2] == done:
            merged[-1] = (before[0], before[1] + count, done)
        else:
            merged.append((first, count, done))
    return merged
