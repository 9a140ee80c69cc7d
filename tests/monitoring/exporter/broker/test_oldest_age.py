"""The age of a queue's head, computed from counters, against queues whose true ages are known."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.exporter.broker.oldest_age import QueueHistory

# One interval between observations: its length, how many messages arrive in it and how many are taken.
INTERVALS = st.lists(
    st.tuples(st.floats(0.1, 60.0), st.integers(0, 20), st.integers(0, 25)), min_size=1, max_size=80
)


class TrueQueue:
    """A first-in-first-out queue that knows when each of its messages came."""

    def __init__(self, waiting: int) -> None:
        self.now = 1000.0
        self.published = waiting
        # (true arrival time, start of the interval in which it came)
        self.messages: deque[tuple[float, float]] = deque([(self.now, self.now)] * waiting)

    def pass_time(self, seconds: float, arriving: int, taken: int) -> None:
        begin, self.now = self.now, self.now + seconds
        for k in range(arriving):
            self.messages.append((begin + seconds * (k + 1) / (arriving + 1), begin))
        self.published += arriving
        for _ in range(min(taken, len(self.messages))):
            self.messages.popleft()


@given(st.integers(0, 30), INTERVALS)
def test_the_age_is_right_to_within_one_interval(
    waiting: int, intervals: list[tuple[float, int, int]]
) -> None:
    queue, history = TrueQueue(waiting), QueueHistory()
    assert history.observe(queue.now, queue.published, len(queue.messages)) == 0
    for interval in intervals:
        queue.pass_time(*interval)
        age = history.observe(queue.now, queue.published, len(queue.messages))
        if not queue.messages:
            assert age == 0
            continue
        arrived, interval_began = queue.messages[0]
        assert queue.now - interval_began >= age - 1e-6
        assert age <= queue.now - arrived + 1e-6
        assert age >= queue.now - arrived - max(seconds for seconds, _, _ in intervals) - 1e-6


@given(st.integers(1, 30), INTERVALS, st.integers(4, 12))
def test_a_bounded_history_never_overstates_the_age(
    waiting: int, intervals: list[tuple[float, int, int]], max_entries: int
) -> None:
    queue, history = TrueQueue(waiting), QueueHistory(max_entries)
    history.observe(queue.now, queue.published, len(queue.messages))
    for interval in intervals:
        queue.pass_time(*interval)
        age = history.observe(queue.now, queue.published, len(queue.messages))
        assert len(history) <= max_entries
        assert 0 <= age <= (queue.now - queue.messages[0][0] + 1e-6 if queue.messages else 0)


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.none() | st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1
    )
)
def test_no_counts_however_strange_give_an_impossible_age(
    observations: list[tuple[float, int | None, int]],
) -> None:
    history, time = QueueHistory(8), 0.0
    for seconds, published, depth in observations:
        time += seconds
        age = history.observe(time, published, depth)
        assert 0 <= age <= time
        assert depth > 0 or age == 0


def test_messages_found_at_the_start_count_from_the_first_observation() -> None:
    history = QueueHistory()
    assert history.observe(100.0, 5_000, 7) == 0
    assert history.observe(160.0, 5_000, 7) == 60


def test_a_moving_queue_of_constant_depth_does_not_grow_old() -> None:
    history = QueueHistory()
    ages = [history.observe(10.0 * k, 100 + 10 * k, 10) for k in range(50)]
    assert max(ages) <= 10


def test_a_stuck_queue_grows_old_while_more_arrives() -> None:
    history = QueueHistory()
    ages = [history.observe(10.0 * k, 3 * k, 3 * k) for k in range(50)]
    assert ages[-1] == pytest.approx(480)


def test_a_counter_reset_keeps_the_age_of_a_stuck_head() -> None:
    history = QueueHistory()
    history.observe(0.0, 50, 0)
    history.observe(10.0, 60, 10)
    assert history.observe(20.0, 0, 10) == 10
    assert history.observe(30.0, 4, 14) == 20
    assert history.observe(40.0, None, 14) == 30


def test_messages_that_were_never_counted_are_noticed_by_the_depth() -> None:
    history = QueueHistory()
    history.observe(0.0, None, 0)
    history.observe(10.0, None, 2)
    assert history.observe(25.0, None, 3) == 15
    assert history.observe(30.0, None, 0) == 0


def test_a_statistic_that_lags_behind_the_depth_is_not_counted_twice() -> None:
    history = QueueHistory()
    history.observe(0.0, 0, 0)
    history.observe(10.0, 0, 5)
    history.observe(20.0, 5, 5)
    assert history.observe(30.0, 5, 5) == 20


def test_a_history_too_small_to_work_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4"):
        QueueHistory(3)
