"""The bound on what is in flight."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from broker.window import Window
from tests.conftest import wait_until


@given(st.integers(1, 5), st.integers(1, 100), st.lists(st.integers(0, 150), max_size=30))
def test_never_more_is_in_flight_than_allowed(messages: int, size_bytes: int, sizes: list[int]) -> None:
    window = Window(messages, size_bytes)

    admitted = [size for size in sizes if window.acquire(size, 0)]

    assert window.in_flight == (len(admitted), sum(admitted))
    assert len(admitted) <= messages
    assert sum(admitted) <= size_bytes or len(admitted) == 1


def test_one_message_larger_than_the_window_is_let_through_alone() -> None:
    window = Window(4, 10)

    assert window.acquire(1000, 0)
    assert not window.acquire(1, 0)
    window.release(1000)
    assert window.acquire(1, 0)


def test_who_waits_goes_on_when_there_is_room() -> None:
    window = Window(1, 100)
    assert window.acquire(10, 0)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(window.acquire, 10, 30.0) for _ in range(3)]
        for left in (2, 1, 0):
            window.release(10)
            wait_until(
                lambda left=left: sum(not one.done() for one in waiting) == left,  # type: ignore[misc]
                "the next one is let in",
            )
    assert all(one.result() for one in waiting)
    assert window.in_flight == (1, 10)


def test_many_threads_never_exceed_it() -> None:
    window, worst, lock = Window(3, 30), [0, 0], threading.Lock()

    def work() -> None:
        for _ in range(200):
            assert window.acquire(10, 30.0)
            now = window.in_flight
            with lock:
                worst[0], worst[1] = max(worst[0], now[0]), max(worst[1], now[1])
            window.release(10)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
    assert worst[0] <= 3
    assert worst[1] <= 30
    assert window.in_flight == (0, 0)
