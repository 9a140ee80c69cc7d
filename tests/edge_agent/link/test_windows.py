import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import WindowError
from edge_agent.link.windows import DAY_SECONDS, Windows


def at(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60


@pytest.mark.parametrize(
    ("windows", "time", "opens_at"),
    [
        ([], "03:00", None),
        (["02:00-05:00"], "01:59", "02:00"),
        (["02:00-05:00"], "02:00", None),
        (["02:00-05:00"], "04:59", None),
        (["02:00-05:00"], "05:00", "02:00"),
        (["23:30-00:30"], "23:45", None),
        (["23:30-00:30"], "00:29", None),
        (["23:30-00:30"], "00:30", "23:30"),
        (["02:00-03:00", "12:15-13:00"], "03:00", "12:15"),
        (["02:00-03:00", "12:15-13:00"], "13:00", "02:00"),
        (["02:00-03:00", "12:15-13:00"], "12:30", None),
        (["0:00-24:00"], "23:59", None),
        ([" 02:00 - 03:00 "], "02:30", None),
        (["22:00-24:00"], "00:00", "22:00"),
    ],
)
def test_windows_are_open_from_their_start_to_before_their_end(
    windows: list[str], time: str, opens_at: str | None
) -> None:
    parsed = Windows.parse(windows)

    assert parsed.opens_at(at(time)) == opens_at
    assert parsed.is_open(at(time)) == (opens_at is None)


@pytest.mark.parametrize(
    "text", ["", "nightly", "2-5", "02:00", "25:00-26:00", "02:60-03:00", "05:00-05:00", "24:00-02:00", "٠٢:٠٠-٠٥:٠٠"]
)  # fmt: skip
def test_what_is_no_window_is_named_in_one_line(text: str) -> None:
    with pytest.raises(WindowError) as caught:
        Windows.parse(["02:00-05:00", text])

    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


times = st.integers(0, DAY_SECONDS // 60 - 1)


@given(
    st.lists(st.tuples(times, times).filter(lambda span: span[0] != span[1]), min_size=1, max_size=4), times
)
def test_when_it_is_closed_it_opens_at_the_time_it_says_and_not_before(
    spans: list[tuple[int, int]], minute: int
) -> None:
    texts = [f"{a // 60:02d}:{a % 60:02d}-{b // 60:02d}:{b % 60:02d}" for a, b in spans]
    windows = Windows.parse(texts)
    opens_at = windows.opens_at(minute * 60)
    if opens_at is None:
        assert windows.is_open(minute * 60)
        return
    assert windows.is_open(at(opens_at))
    waited = minute
    while waited % 1440 * 60 != at(opens_at):
        assert not windows.is_open(waited % 1440 * 60)
        waited += 1
