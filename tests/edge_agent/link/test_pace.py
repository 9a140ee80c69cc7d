from edge_agent.link.pace import LEAST_BYTES, MOST_BYTES, Pace


def test_quick_confirms_widen_the_window_up_to_its_limit() -> None:
    pace = Pace()
    assert pace.window_bytes == LEAST_BYTES

    pace.confirmed(100_000, 0.2)
    assert pace.window_bytes == LEAST_BYTES + 100_000
    for _ in range(100):
        pace.confirmed(2**20, 0.2)

    assert pace.window_bytes == MOST_BYTES


def test_slow_confirms_narrow_it_to_what_it_began_with() -> None:
    pace = Pace()
    for _ in range(100):
        pace.confirmed(2**20, 0.2)

    pace.confirmed(2**20, 2.0)
    assert pace.window_bytes == MOST_BYTES
    pace.confirmed(2**20, 5.0)
    assert pace.window_bytes == MOST_BYTES // 2
    for _ in range(100):
        pace.confirmed(2**20, 5.0)

    assert pace.window_bytes == LEAST_BYTES


def test_after_a_loss_it_begins_again() -> None:
    pace = Pace()
    pace.confirmed(2**20, 0.2)

    pace.reset()

    assert pace.window_bytes == LEAST_BYTES
