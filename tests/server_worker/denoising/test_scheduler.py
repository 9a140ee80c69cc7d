from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_worker.denoising.scheduler import INTERACTIVE, PREFETCH, Group, Job, Limits, Scheduler
from server_worker.denoising.step_cost import StepCost

LINEAR = StepCost.measured({size: 0.001 * size for size in (1, 2, 4, 8, 16, 32)})
FLAT = StepCost.measured({1: 0.01, 32: 0.0101})

Numbers = tuple[int, int, str, str]


def job(key: str, samples: int, evaluations: int = 2, client: str = "a", priority: str = INTERACTIVE) -> Job:
    return Job(key, client, samples, evaluations, priority)


@dataclass
class Run:
    """What a scheduler did until it was idle: how often each sample was in a call, what was done, how large calls were."""

    calls: Counter[tuple[str, int]] = field(default_factory=Counter)
    finished: list[tuple[str, int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)


def samples_of(groups: tuple[Group, ...]) -> list[tuple[str, int]]:
    return [(group.key, group.first + i) for group in groups for i in range(group.count)]


def count(groups: tuple[Group, ...], **clients: str) -> Counter[str]:
    shares = Counter[str]()
    for group in groups:
        shares[clients.get(group.key, group.key)] += group.count
    return shares


def run(scheduler: Scheduler, arrivals: list[list[Job]]) -> Run:
    record = Run()
    pending = list(arrivals)
    while pending or not scheduler.idle:
        for arrival in pending.pop(0) if pending else []:
            scheduler.add(arrival)
        groups = scheduler.select()
        assert bool(groups) == (not scheduler.idle)
        record.sizes.append(sum(group.count for group in groups))
        record.begun.append(scheduler.samples_begun)
        record.calls.update(samples_of(groups))
        record.finished.extend(samples_of(scheduler.advance()))
        assert len(record.sizes) < 10_000
    return record


JOBS = st.tuples(
    st.integers(1, 40), st.integers(1, 6), st.sampled_from("abc"), st.sampled_from([INTERACTIVE, PREFETCH])
)
ARRIVALS = st.lists(st.lists(JOBS, max_size=4), max_size=6)
LIMITS = st.builds(
    Limits,
    max_batch=st.integers(1, 32),
    prefetch_share=st.floats(0, 0.9),
    interactive_slowdown=st.floats(1, 4),
    max_begun=st.integers(0, 64),
    cost=st.sampled_from([None, LINEAR, FLAT]),
)


def named(arrivals: list[list[Numbers]]) -> list[list[Job]]:
    return [
        [job(f"{turn}.{place}", *numbers) for place, numbers in enumerate(arrival)]
        for turn, arrival in enumerate(arrivals)
    ]


@given(ARRIVALS, LIMITS)
def test_every_sample_takes_each_of_its_steps_once_and_is_done_once(
    arrivals: list[list[Numbers]], limits: Limits
) -> None:
    jobs = named(arrivals)
    record = run(Scheduler(limits), jobs)
    expected = {(j.key, i): j.evaluations for arrival in jobs for j in arrival for i in range(j.samples)}
    assert dict(record.calls) == expected
    assert sorted(record.finished) == sorted(expected)


@given(ARRIVALS, LIMITS)
def test_the_budgets_are_kept(arrivals: list[list[Numbers]], limits: Limits) -> None:
    record = run(Scheduler(limits), named(arrivals))
    assert max(record.sizes, default=0) <= limits.max_batch
    clients = 3
    assert max(record.begun, default=0) <= 2 * (limits.begun_budget + clients)  # for each priority


@given(st.lists(JOBS, min_size=1, max_size=8), st.integers(1, 32))
def test_a_call_is_full_while_enough_waits(jobs: list[Numbers], max_batch: int) -> None:
    scheduler = Scheduler(Limits(max_batch))
    left = 0
    for place, numbers in enumerate(jobs):
        scheduler.add(job(str(place), *numbers))
        left += numbers[0]
    while not scheduler.idle:
        assert sum(group.count for group in scheduler.select()) == min(left, max_batch)
        left -= sum(group.count for group in scheduler.advance())


@given(ARRIVALS, LIMITS, st.data())
def test_what_is_dropped_takes_no_further_part_and_harms_nothing_else(
    arrivals: list[list[Numbers]], limits: Limits, data: st.DataObject
) -> None:
    scheduler = Scheduler(limits)
    jobs = {each.key: each for arrival in named(arrivals) for each in arrival}
    for each in jobs.values():
        scheduler.add(each)
    gone: set[str] = set()
    finished: list[tuple[str, int]] = []
    while not scheduler.idle:
        assert not gone & {group.key for group in scheduler.select()}
        if data.draw(st.booleans()):  # in the middle of a step, too
            dropped = data.draw(st.sampled_from(sorted(jobs)))
            scheduler.drop([dropped, "never heard of"])
            gone.add(dropped)
        groups = scheduler.advance()
        assert not gone & {group.key for group in groups}
        finished.extend(samples_of(groups))
    whole = {(key, i) for key in jobs.keys() - gone for i in range(jobs[key].samples)}
    assert whole <= set(finished)
    assert len(finished) == len(set(finished))


def test_a_job_dropped_and_taken_in_anew_during_a_step_starts_from_its_beginning() -> None:
    scheduler = Scheduler(Limits(8))
    scheduler.add(job("again", 4, evaluations=2))
    scheduler.select()
    scheduler.drop(["again"])
    scheduler.add(job("again", 4, evaluations=2))
    assert scheduler.advance() == ()
    assert scheduler.select() == (Group("again", 0, 4, 0),)


@given(st.floats(0, 1000), st.floats(0.001, 1000))
def test_a_job_expires_at_its_deadline_begun_or_not(now: float, deadline: float) -> None:
    scheduler = Scheduler(Limits(4))
    scheduler.add(Job("timed", "a", 6, 3, INTERACTIVE, deadline))
    scheduler.add(job("patient", 6))
    for _ in range(2):
        assert scheduler.expired(now) == (("timed",) if now >= deadline else ())
        scheduler.select()
        scheduler.advance()


@pytest.mark.parametrize("cost", [None, LINEAR, FLAT])
@given(max_batch=st.integers(1, 32), samples=st.integers(1, 20), share=st.floats(0.05, 0.5))
def test_prefetch_gets_its_share_under_endless_interactive_work(
    cost: StepCost | None, max_batch: int, samples: int, share: float
) -> None:
    scheduler = Scheduler(Limits(max_batch, prefetch_share=share, cost=cost))
    scheduler.add(job("slow", samples, evaluations=3, priority=PREFETCH))
    done, steps = 0, 0
    while done < samples:
        scheduler.add(job(f"i{steps}", max_batch))
        scheduler.select()
        done += sum(group.count for group in scheduler.advance() if group.key == "slow")
        steps += 1
        # Its evaluations, at its share of every call, and a call each to save up, to begin and to round.
        assert steps <= 3 * samples / (share * max_batch) + 3 * samples + 2 / (share * max_batch) + 6


@given(max_batch=st.integers(2, 32), samples=st.integers(1, 64), share=st.floats(0, 0.5))
def test_interactive_work_gets_the_rest_under_endless_prefetch(
    max_batch: int, samples: int, share: float
) -> None:
    scheduler = Scheduler(Limits(max_batch, prefetch_share=share, cost=LINEAR))
    scheduler.add(job("bulk", 10_000, priority=PREFETCH))
    for _ in range(3):
        scheduler.select()
        scheduler.advance()
    scheduler.add(job("urgent", samples, evaluations=1))
    done, evaluations, of_it = 0, 0, 0
    while done < samples:
        groups = scheduler.select()
        evaluations += sum(group.count for group in groups)
        of_it += count(groups)["urgent"]
        done += sum(group.count for group in scheduler.advance() if group.key == "urgent")
    assert (
        evaluations - of_it <= share * evaluations + max(0.5 * samples, 1) + 1
    )  # its share, or the slowdown allowed


@given(samples=st.integers(1, 16))
def test_prefetch_slows_an_interactive_step_down_no_more_than_allowed(samples: int) -> None:
    scheduler = Scheduler(Limits(32, prefetch_share=0.0, interactive_slowdown=1.5, cost=LINEAR))
    scheduler.add(job("bulk", 1000, priority=PREFETCH))
    scheduler.add(job("urgent", samples))
    assert LINEAR.of(sum(group.count for group in scheduler.select())) <= 1.5 * LINEAR.of(samples) + 1e-12


def test_where_a_larger_call_costs_nothing_prefetch_fills_it() -> None:
    scheduler = Scheduler(Limits(32, cost=FLAT))
    scheduler.add(job("bulk", 1000, priority=PREFETCH))
    scheduler.add(job("urgent", 2))
    assert count(scheduler.select()) == {"urgent": 2, "bulk": 30}


def test_prefetch_that_has_begun_sits_out_while_interactive_samples_need_the_room() -> None:
    scheduler = Scheduler(Limits(8, prefetch_share=0.0))
    scheduler.add(job("p", 8, evaluations=3, priority=PREFETCH))
    scheduler.select()
    scheduler.advance()
    scheduler.add(job("i", 6, evaluations=1))
    assert count(scheduler.select()) == {"i": 6, "p": 2}
    scheduler.advance()
    assert scheduler.select() == (Group("p", 0, 2, 2), Group("p", 2, 6, 1))


def test_a_new_request_takes_part_in_the_very_next_call_and_leaves_when_it_is_done() -> None:
    scheduler = Scheduler(Limits(8))
    scheduler.add(job("long", 4, evaluations=5))
    scheduler.select()
    scheduler.advance()
    scheduler.add(job("short", 2, evaluations=1))
    assert scheduler.select() == (Group("long", 0, 4, 1), Group("short", 0, 2, 0))
    assert scheduler.advance() == (Group("short", 0, 2, 1),)


def test_a_client_that_comes_later_has_its_share_at_once_however_much_another_has_begun() -> None:
    scheduler = Scheduler(Limits(16))
    scheduler.add(job("big", 100, evaluations=1000, client="greedy"))
    for _ in range(5):
        scheduler.select()
        scheduler.advance()
    scheduler.add(job("small", 8, evaluations=1000, client="modest"))
    assert count(scheduler.select()) == {"big": 8, "small": 8}


@given(st.integers(1, 24), st.integers(2, 40))
def test_clients_are_served_evenly_even_when_there_are_more_than_fit_into_a_call(
    max_batch: int, clients: int
) -> None:
    scheduler = Scheduler(Limits(max_batch))
    for number in range(clients):
        scheduler.add(job(f"c{number}", 50 + number, evaluations=100, client=f"c{number}"))
    served = Counter[str]()
    for _ in range(40):
        served.update(count(scheduler.select()))
        scheduler.advance()
        shares = [served[f"c{number}"] for number in range(clients)]
        assert max(shares) - min(shares) <= 1


def test_wanting_little_earns_a_client_nothing() -> None:
    scheduler = Scheduler(Limits(64))
    scheduler.add(job("all", 1024, evaluations=10_000, client="busy"))
    scheduler.add(job("one", 1, evaluations=10_000, client="modest"))
    for _ in range(900):
        scheduler.select()
        scheduler.advance()
    scheduler.add(job("more", 1024, evaluations=10_000, client="modest"))
    served = Counter[str]()
    for _ in range(100):
        served.update(count(scheduler.select(), all="busy", one="modest", more="modest"))
        scheduler.advance()
    assert served["busy"] == pytest.approx(served["modest"], rel=0.02)


def test_a_newcomer_does_not_start_where_somebody_stands_who_wants_little() -> None:
    scheduler = Scheduler(Limits(64))
    scheduler.add(job("all", 1024, evaluations=10_000, client="busy"))
    scheduler.add(job("one", 1, evaluations=10_000, client="modest"))
    served = Counter[str]()
    for step in range(500):
        if step >= 100 and step % 2 == 0:
            scheduler.add(job(f"short{step}", 64, evaluations=1, client="late"))
        groups = scheduler.select()
        if step >= 100:
            served.update(
                "late" if group.key.startswith("short") else group.key
                for group in groups
                for _ in range(group.count)
            )
        scheduler.advance()
    assert served["late"] <= 1.05 * served["all"]


@given(st.integers(2, 40), st.integers(1, 16))
def test_many_clients_with_a_backlog_all_begin_and_calls_stay_full(clients: int, max_batch: int) -> None:
    scheduler = Scheduler(Limits(max_batch))
    served = Counter[str]()
    for number in range(clients + 60):
        if number < clients:
            scheduler.add(job(f"c{number}", 1024, evaluations=1000, client=f"c{number}"))
        groups = scheduler.select()
        assert sum(group.count for group in groups) == max_batch
        if number >= clients:
            served.update(count(groups))
        scheduler.advance()
    shares = [served[f"c{number}"] for number in range(clients)]
    assert max(shares) - min(shares) <= 0.1 * max(shares) + max_batch


def test_an_absence_earns_a_client_nothing() -> None:
    scheduler = Scheduler(Limits(8))
    scheduler.add(job("steady", 1000, evaluations=1, client="steady"))
    for _ in range(20):
        scheduler.select()
        scheduler.advance()
    scheduler.add(job("late", 1000, evaluations=1, client="late"))
    assert count(scheduler.select()) == {"steady": 4, "late": 4}


def test_within_a_client_the_eldest_request_is_done_first() -> None:
    scheduler = Scheduler(Limits(4))
    for key in ("first", "second"):
        scheduler.add(job(key, 6, evaluations=2))
    order: list[str] = []
    while not scheduler.idle:
        scheduler.select()
        order.extend(key for key, _ in samples_of(scheduler.advance()))
    assert order == ["first"] * 6 + ["second"] * 6


def test_a_job_that_makes_no_sense_is_refused() -> None:
    scheduler = Scheduler(Limits(4))
    scheduler.add(job("once", 1))
    for wrong in (job("none", 0), job("still", 1, evaluations=0), job("once", 1)):
        with pytest.raises(ValueError, match=wrong.key):
            scheduler.add(wrong)
