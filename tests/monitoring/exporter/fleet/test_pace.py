"""How often each device reports, with a clock that the test hands over."""

from hypothesis import given
from hypothesis import strategies as st

from monitoring.exporter.fleet.believed import REPORTS
from monitoring.exporter.fleet.pace import SENDERS_MAX, ReportPace


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 2**20)), max_size=50))
def test_no_device_has_more_taken_than_its_allowance(said: list[tuple[float, int]]) -> None:
    pace, now_seconds, taken = ReportPace(), 0.0, 0
    for _ in range(int(REPORTS.most) - 20):
        taken += pace.admits("clinic_a", 0, 0.0)
    for waited_seconds, size_bytes in said:
        now_seconds += waited_seconds
        taken += (1 + size_bytes // 8192) * pace.admits("clinic_a", size_bytes, now_seconds)
        assert taken <= REPORTS.most + REPORTS.per_second * now_seconds


def test_one_that_floods_is_not_taken_and_others_are() -> None:
    pace = ReportPace()
    taken = [pace.admits("clinic_a", 700, 0.001 * number) for number in range(20_000)]
    assert REPORTS.most <= sum(taken) <= REPORTS.most + 20
    assert pace.admits("clinic_b", 700, 20.0)
    assert pace.admits("clinic_a", 700, 25.0), "and after a while it is, once a second"
    assert not all(pace.admits("clinic_a", 700, 25.0) for _ in range(10))


def test_who_reports_as_agents_do_is_not_kept_in_memory_and_many_are_within_a_bound() -> None:
    pace = ReportPace()
    for number in range(1000):
        assert pace.admits(f"clinic_{number % 10}", 700, 6.0 * number)
    assert len(pace) <= 2

    crowd = SENDERS_MAX + 100
    for number in range(crowd):
        pace.admits(f"clinic_{number}", 700, 6000.0)
    assert len(pace) <= SENDERS_MAX
