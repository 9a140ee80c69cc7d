from hypothesis import given
from hypothesis import strategies as st

from edge_agent.link.allowance import BURST_SECONDS, Allowance


def test_without_a_cap_everything_may_be_sent_at_once() -> None:
    allowance = Allowance(None)
    allowance.spend(10**12, 0.0)

    assert allowance.available(0.0) == float("inf")


def test_a_message_larger_than_what_is_there_leaves_a_debt_that_time_pays() -> None:
    allowance = Allowance(1000)
    assert allowance.available(5.0) == 1000 * BURST_SECONDS
    allowance.spend(4000, 5.0)

    assert allowance.available(7.9) < 0
    assert allowance.available(8.1) > 0


def test_a_pause_saves_up_no_more_than_a_burst() -> None:
    allowance = Allowance(1000)
    allowance.spend(1000, 0.0)

    assert allowance.available(10_000.0) == 1000 * BURST_SECONDS


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10**6)), min_size=1, max_size=50),
)
def test_over_any_run_no_more_is_sent_than_the_cap_a_burst_and_one_message(
    cap: int, asked: list[tuple[float, int]]
) -> None:
    allowance, moment, sent = Allowance(cap), 0.0, 0
    for pause, size in asked:
        moment += pause
        if allowance.available(moment) > 0:
            allowance.spend(size, moment)
            sent += size
            assert sent <= cap * (moment + BURST_SECONDS) + size + 1
