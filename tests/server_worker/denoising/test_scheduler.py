from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from server_worker.denoising.scheduler import INTERACTIVE, PREFETCH, Group, Job, Limits, Scheduler


def job(key: str, samples: int, evaluations: int = 2, client: str = "a", priority: str = INTERACTIVE) -> Job:
    return Job(key, client, samples, evaluations, priority, 0.0)


@dataclass
class Run:
    """What a scheduler did until it was idle."""

    calls: Counter[tuple[str, int]] = field(default_factory=Counter)
    finished: list[tuple[str, int]] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)

    def count(self, group: Group) -> None:
        self.calls.update((group.key, group.first + i) for i in range(group.count))


def run(scheduler: Scheduler, arrivals: list[list[Job]]) -> Run:
    record = Run()
    pending = list(arrivals)
    while pending or not scheduler.idle:
        for arrival in pending.pop(0) if pending else []:
            scheduler.add(arrival)
        scheduler.admit()
        record.batch_sizes.append(scheduler.samples_running)
        for group in scheduler.running:
            record.count(group)
        for group in scheduler.advance():
            record.finished.extend((group.key, group.first + i) for i in range(group.count))
        assert len(record.batch_sizes) < 10_000
    return record


JOBS = st.builds(
    lambda samples, evaluations, client, priority: (samples, evaluations, client, priority),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from("abc"),
    st.sampled_from([INTERACTIVE, PREFETCH]),
)
ARRIVALS = st.lists(st.lists(JOBS, max_size=4), max_size=6)
LIMITS = st.builds(Limits, st.integers(1, 32), st.floats(0, 1))


def named(arrivals: list[list[tuple[int, int, str, str]]]) -> list[list[Job]]:
    return [
        [job(f"{turn}.{place}", *numbers) for place, numbers in enumerate(arrival)]
        for turn, arrival in enumerate(arrivals)
    ]


@given(ARRIVALS, LIMITS)
def test_every_sample_takes_each_of_its_steps_once_and_finishes_once(
    arrivals: list[list[tuple[int, int, str, str]]], limits: Limits
) -> None:
    jobs = named(arrivals)
    record = run(Scheduler(limits), jobs)
    expected = {(j.key, i): j.evaluations for arrival in jobs for j in arrival for i in range(j.samples)}
    assert dict(record.calls) == expected
    assert sorted(record.finished) == sorted(expected)


@given(ARRIVALS, LIMITS)
def test_the_batch_never_exceeds_its_budget_and_is_full_while_enough_waits(
    arrivals: list[list[tuple[int, int, str, str]]], limits: Limits
) -> None:
    scheduler = Scheduler(limits)
    for arrival in named(arrivals):
        for each in arrival:
            scheduler.add(each)
        scheduler.admit()
        assert scheduler.samples_running <= limits.max_batch
        assert scheduler.samples_running == limits.max_batch or scheduler.jobs_waiting == 0
        scheduler.advance()


@given(st.integers(2, 32), st.integers(1, 20))
def test_prefetch_is_not_starved_by_endless_interactive_work(max_batch: int, samples: int) -> None:
    scheduler = Scheduler(Limits(max_batch, prefetch_share=0.125))
    scheduler.add(job("slow", samples, priority=PREFETCH))
    finished: set[int] = set()
    for turn in range(4 * samples + 10):
        scheduler.add(job(f"i{turn}", max_batch))
        scheduler.admit()
        for group in scheduler.advance():
            if group.key == "slow":
                finished.update(range(group.first, group.first + group.count))
    assert finished == set(range(samples))


def test_interactive_samples_join_before_prefetch_that_came_first() -> None:
    scheduler = Scheduler(Limits(max_batch=8, prefetch_share=0.0))
    scheduler.add(job("p", 8, priority=PREFETCH))
    scheduler.add(job("i", 6))
    joined = {group.key: group.count for group in scheduler.admit()}
    assert joined == {"i": 6, "p": 2}


def test_a_new_request_joins_a_batch_that_is_already_running() -> None:
    scheduler = Scheduler(Limits(max_batch=8))
    scheduler.add(job("long", 4, evaluations=5))
    scheduler.admit()
    scheduler.advance()
    scheduler.add(job("short", 2, evaluations=1))
    scheduler.admit()
    assert [(group.key, group.done) for group in scheduler.running] == [("long", 1), ("short", 0)]
    assert [group.key for group in scheduler.advance()] == ["short"]


def test_two_clients_share_the_batch_evenly_however_much_one_asks_for() -> None:
    scheduler = Scheduler(Limits(max_batch=16))
    for number in range(5):
        scheduler.add(job(f"big{number}", 100, client="greedy"))
    scheduler.add(job("small", 8, client="modest"))
    shares = Counter[str]()
    for group in scheduler.admit():
        shares[group.client] += group.count
    assert shares == {"greedy": 8, "modest": 8}


def test_a_job_expires_only_while_none_of_it_has_started() -> None:
    scheduler = Scheduler(Limits(max_batch=4))
    scheduler.add(Job("running", "a", 6, 3, INTERACTIVE, 0.0, deadline_seconds=5.0))
    scheduler.admit()
    scheduler.add(Job("waiting", "a", 1, 3, INTERACTIVE, 0.0, deadline_seconds=5.0))
    assert scheduler.expired(4.9) == ()
    assert scheduler.expired(5.0) == ("waiting",)
    assert scheduler.untouched() == ("waiting",)


def test_a_dropped_job_leaves_both_queues_and_frees_its_room() -> None:
    scheduler = Scheduler(Limits(max_batch=4))
    scheduler.add(job("gone", 6))
    scheduler.admit()
    scheduler.drop(["gone"])
    assert scheduler.idle
    scheduler.add(job("next", 4))
    assert [group.count for group in scheduler.admit()] == [4]
