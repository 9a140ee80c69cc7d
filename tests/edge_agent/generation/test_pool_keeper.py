import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.contract.denoise import FailedV1
from diffusion.schedule import NoiseSchedule
from edge_agent.generation.pool import Stock
from edge_agent.generation.pool_keeper import REQUEST_SAMPLES, Order, PoolKeeper, order
from edge_agent.heads.facts import HeadFacts
from edge_agent.settings import EdgeSettings
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.spool import Spool
from tests.conftest import wait_until
from tests.edge_agent.generation.stock import answer, confirm, deliver, part, sent, shelf
from tests.edge_agent.rounds import SCHEDULE, opened_round

FACTS = HeadFacts("ward-1-abc", SCHEDULE, 60, (1, 8, 8), 3)
MakeSettings = Callable[..., EdgeSettings]


class Bench:
    """A keeper whose head, link and waiting times a test decides; `after` shows how long it holds back after each failure."""

    def __init__(self, spool: Spool, settings: EdgeSettings) -> None:
        self.facts: HeadFacts | None = FACTS
        self.connected = True
        self.on_trial = False
        self.after: list[int] = []
        self.hold_back_seconds = 0.0
        self.woken = 0
        self.keeper = PoolKeeper(
            spool,
            settings,
            lambda: self.facts,
            lambda: self.connected,
            self._wake,
            hold_back=self._hold_back,
            on_trial=lambda: self.on_trial,
        )

    def _wake(self) -> None:
        self.woken += 1

    def _hold_back(self, failures: int) -> float:
        self.after.append(failures)
        return self.hold_back_seconds


def filled(spool: Spool, settings: EdgeSettings, version: int = 1) -> Bench:
    """A bench whose shelf is full."""
    bench = Bench(spool, settings)
    while shelf(spool).images < settings.pool_images:
        bench.keeper.turn()
        (request,) = sent(spool)
        confirm(spool)
        assert answer(spool, request, backbone_version=version) == "kept"
    return bench


def test_an_empty_shelf_is_filled_with_requests_of_low_priority_one_at_a_time(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = Bench(spool, settings(pool_images=100, pool_labels=(0, 2), reask_seconds=900))

    bench.keeper.turn()
    bench.keeper.turn()

    requests = sent(spool)
    assert [(request.n, request.priority, request.ttl_seconds) for request in requests] == [
        (REQUEST_SAMPLES, "prefetch", 900)
    ] * 2
    for request, label in zip(requests, (0, 2), strict=True):
        assert request.labels is not None
        np.testing.assert_array_equal(request.labels, np.full(REQUEST_SAMPLES, label))
    assert requests[0].seed != requests[1].seed
    assert (requests[0].plan[0], requests[0].plan[-1]) == (200, 60)
    assert [row[0] for row in spool.rows("SELECT DISTINCT priority FROM outbox")] == [1]
    assert bench.woken == 2
    confirm(spool)
    answer(spool, requests[0])
    bench.keeper.turn()
    assert [request.n for request in sent(spool)] == [100 - REQUEST_SAMPLES]
    assert dataclasses.replace(shelf(spool, 0), size_bytes=0) == Stock(0, 64, 100, 36, 1, 0, 0, None, 64)
    assert shelf(spool, 0).size_bytes == 64 * 8 * 8 * 2


def test_nothing_is_asked_without_a_link_over_a_metered_one_or_when_no_stock_is_wanted(
    spool: Spool, settings: MakeSettings
) -> None:
    unlinked = Bench(spool, settings(pool_images=4))
    unlinked.connected = False
    unlinked.keeper.turn()
    Bench(spool, settings(pool_images=4, metered=True)).keeper.turn()
    Bench(spool, settings()).keeper.turn()
    assert sent(spool) == []
    unlinked.connected = True
    Bench(spool, settings(pool_images=4)).keeper.turn()
    assert len(sent(spool)) == 1


def test_a_head_of_the_whole_chain_wants_no_stock(spool: Spool, settings: MakeSettings) -> None:
    bench = Bench(spool, settings(pool_images=4))
    bench.facts = dataclasses.replace(FACTS, t_cut=200)
    bench.keeper.turn()
    assert sent(spool) == []


shelves = st.builds(
    Stock,
    label=st.none(),
    images=st.integers(0, 300),
    wanted=st.integers(0, 300),
    requested=st.integers(0, 3),
    backbone_version=st.none(),
    size_bytes=st.just(0),
    failures=st.just(0),
    error=st.none(),
    usable=st.just(0),
)


@given(shelves, st.floats(0, 1), st.booleans(), st.integers(0, 300), st.integers(0, 300))
def test_an_order_never_asks_for_more_than_fits_and_never_twice(
    found: Stock, refill: float, filling: bool, old: int, foreign: int
) -> None:
    foreign = min(foreign, found.images)
    wanted = order(
        found, refill=refill, filling=filling, old=min(old, found.images), newest_old=4, foreign=foreign
    )

    of_use = found.images - foreign
    if wanted is None:
        low = of_use < max(1.0, refill * found.wanted)
        assert found.requested or not found.wanted or not (low or foreign) or of_use >= found.wanted
        return
    assert not found.requested
    assert 1 <= wanted.samples <= REQUEST_SAMPLES
    if wanted.renews is None:
        assert of_use + wanted.samples <= found.wanted
    else:
        assert wanted.samples <= old


def test_a_shelf_is_left_alone_until_it_is_low_and_then_filled_to_the_brim() -> None:
    def at(images: int, *, filling: bool = False) -> Order | None:
        found = Stock(None, images, 100, 0, 1, 0, 0, None, images)
        return order(found, refill=0.5, filling=filling, old=0, newest_old=0)

    assert at(50) is None
    assert at(49) == Order(51, None)
    assert at(50, filling=True) == Order(50, None)
    assert at(100, filling=True) is None
    assert order(Stock(None, 0, 4, 0, None, 0, 0, None, 0), refill=0.0, filling=False, old=0, newest_old=0)


def test_failures_hold_the_next_request_back_also_after_a_restart(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = Bench(spool, settings(pool_images=4))
    for count in (1, 2):
        bench.keeper.turn()
        (request,) = sent(spool)
        confirm(spool)
        failure = FailedV1(request_id=request.request_id, reason="no_version", detail="nothing published")
        assert deliver(spool, failure) == "stock_failed"
        assert deliver(spool, failure) == "late"
        assert (shelf(spool).failures, shelf(spool).error) == (count, "no_version: nothing published")
    bench.hold_back_seconds = 3600
    bench.keeper.turn()
    assert bench.after == [1, 2]
    assert sent(spool) == []
    again = Bench(spool, settings(pool_images=4))
    again.hold_back_seconds = 3600
    again.keeper.turn()
    assert again.after == [2]
    assert sent(spool) == []

    patient = Bench(spool, settings(pool_images=4))
    patient.keeper.turn()
    answer(spool, sent(spool)[0])
    assert (shelf(spool).failures, shelf(spool).error, shelf(spool).images) == (0, None, 4)


def test_what_does_not_come_is_asked_for_anew_and_its_late_answer_is_dropped(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = Bench(spool, settings(pool_images=4, reask_seconds=1))
    bench.keeper.turn()
    (lost,) = sent(spool)

    def asked_anew() -> bool:
        bench.keeper.turn()
        return [request.request_id for request in sent(spool)] != [lost.request_id]

    started = time.monotonic()
    wait_until(asked_anew, "the request is given up")
    assert time.monotonic() - started >= 1
    wait_until(asked_anew, "the samples are asked for anew")
    assert bench.after == [1]
    assert answer(spool, lost) == "late"
    wait_until(lambda: asked_anew() and bool(sent(spool)), "there is a new request")
    assert answer(spool, sent(spool)[0]) == "kept"


def test_without_a_link_no_request_is_given_up(spool: Spool, settings: MakeSettings) -> None:
    bench = Bench(spool, settings(pool_images=4, reask_seconds=1))
    bench.keeper.turn()
    (request,) = sent(spool)
    bench.connected = False
    until = time.monotonic() + 1.5

    def passed() -> bool:
        bench.keeper.turn()
        return time.monotonic() > until

    wait_until(passed, "the time has passed")
    bench.connected = True
    bench.keeper.turn()
    bench.keeper.turn()
    assert answer(spool, request) == "kept"


def test_old_samples_are_renewed_once_their_replacements_are_there(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = filled(spool, settings(pool_images=4, pool_versions=2), version=1)
    deliver(spool, opened_round(number=1, backbone_version=3))
    bench.keeper.turn()
    assert sent(spool) == [], "two versions behind are good enough"
    deliver(spool, opened_round(number=2, backbone_version=4))

    bench.keeper.turn()

    (request,) = sent(spool)
    assert request.n == 4
    assert (shelf(spool).images, shelf(spool).backbone_version) == (4, 1)
    confirm(spool)
    deliver(spool, part(request, 0, 3, backbone_version=4))
    assert (shelf(spool).images, shelf(spool).backbone_version) == (4, 1)
    deliver(spool, part(request, 3, 1, backbone_version=4))
    assert (shelf(spool).images, shelf(spool).backbone_version) == (4, 4)
    bench.keeper.turn()
    assert sent(spool) == []


def test_a_server_that_speaks_of_a_version_and_answers_with_an_older_one_is_not_asked_for_ever(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = filled(spool, settings(pool_images=4, pool_versions=0), version=1)
    deliver(spool, opened_round(number=1, backbone_version=9))
    bench.hold_back_seconds = 3600
    bench.keeper.turn()
    (request,) = sent(spool)
    confirm(spool)
    answer(spool, request, backbone_version=1)

    deliver(spool, opened_round(number=2, backbone_version=9))
    bench.keeper.turn()

    assert sent(spool) == []
    assert bench.after == [1]
    assert (shelf(spool).images, shelf(spool).failures) == (4, 1)


@pytest.mark.parametrize(
    "changes", [{"t_cut": 50}, {"shape": (1, 4, 4)}, {"schedule": NoiseSchedule.linear(200)}]
)
def test_what_a_new_head_cannot_finish_is_dropped_once_the_new_heads_stock_is_there(
    spool: Spool, settings: MakeSettings, changes: dict[str, Any]
) -> None:
    bench = filled(spool, settings(pool_images=4))
    bench.facts = None
    bench.keeper.turn()
    bench.facts = dataclasses.replace(FACTS, identity="same-cut", num_classes=5)
    bench.keeper.turn()
    assert (shelf(spool).images, shelf(spool).usable, shelf(spool).requested) == (4, 4, 0)
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM contract")
    bench.facts = dataclasses.replace(FACTS, identity="other", **changes)

    bench.keeper.turn()

    assert (shelf(spool).images, shelf(spool).usable, shelf(spool).requested) == (4, 0, 4)
    (request,) = sent(spool)
    confirm(spool)
    answer(spool, request)
    assert (shelf(spool).images, shelf(spool).usable, shelf(spool).requested) == (4, 4, 0)
    bench.keeper.turn()
    assert sent(spool) == []
    assert spool.rows("SELECT count(DISTINCT origin) FROM pool_requests")[0][0] == 1


OTHER_CUT = dataclasses.replace(FACTS, identity="ward-2-def", t_cut=50)


def test_a_head_on_trial_leaves_the_stock_of_the_one_before_it_alone(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = filled(spool, settings(pool_images=4))
    for connected in (False, True):
        bench.facts, bench.on_trial, bench.connected = OTHER_CUT, True, connected
        bench.keeper.turn()
        assert (shelf(spool).images, shelf(spool).usable, shelf(spool).requested) == (4, 0, 0)

    bench.facts, bench.on_trial = FACTS, False
    bench.keeper.turn()

    assert (shelf(spool).images, shelf(spool).usable, shelf(spool).requested) == (4, 4, 0)


def test_a_believed_head_out_of_reach_of_the_server_drops_nothing(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = filled(spool, settings(pool_images=4))
    bench.facts, bench.connected = OTHER_CUT, False
    bench.keeper.turn()
    assert shelf(spool).images == 4


def test_shelves_that_nobody_wants_are_cleared_of_what_the_head_cannot_finish_when_the_others_are_full(
    spool: Spool, settings: MakeSettings
) -> None:
    filled(spool, settings(pool_images=4))
    bench = Bench(spool, settings(pool_images=4, pool_labels=(1,)))
    bench.facts = OTHER_CUT
    bench.keeper.turn()
    assert shelf(spool).images == 4
    (request,) = sent(spool)
    confirm(spool)
    answer(spool, request)
    bench.keeper.turn()
    assert (shelf(spool).images, shelf(spool, 1).usable) == (0, 4)


def test_after_a_change_of_settings_samples_of_the_old_kind_are_renewed(
    spool: Spool, settings: MakeSettings
) -> None:
    filled(spool, settings(pool_images=4, server_steps=16))
    bench = Bench(spool, settings(pool_images=4, server_steps=8))
    bench.keeper.turn()
    (request,) = sent(spool)
    assert (request.n, len(request.plan)) == (4, 9)
    confirm(spool)
    deliver(spool, part(request, 0, 3))
    assert (shelf(spool).images, shelf(spool).usable) == (4, 3)
    deliver(spool, part(request, 3, 1))
    assert (shelf(spool).images, shelf(spool).usable) == (4, 4)
    bench.keeper.turn()
    assert sent(spool) == []


def test_what_is_on_its_way_when_the_settings_change_is_called_off(
    spool: Spool, settings: MakeSettings
) -> None:
    Bench(spool, settings(pool_images=4, server_steps=16)).keeper.turn()
    (old,) = sent(spool)
    bench = Bench(spool, settings(pool_images=4, server_steps=8))
    bench.keeper.turn()
    (new,) = sent(spool)
    assert new.request_id != old.request_id
    assert (answer(spool, old), answer(spool, new)) == ("late", "kept")
    assert (shelf(spool).images, shelf(spool).usable) == (4, 4)


def test_samples_at_the_cut_never_pass_their_quota(spool: Spool, settings: MakeSettings) -> None:
    large = HeadFacts("large", SCHEDULE, 60, (3, 128, 128), None)
    sample_bytes = 3 * 128 * 128 * 2
    bench = Bench(spool, settings(pool_images=100, inbox_max_bytes=2**20))
    bench.facts = large
    for _ in range(3):
        bench.keeper.turn()
        for request in sent(spool):
            confirm(spool)
            assert answer(spool, request) == "kept"
    assert shelf(spool).images == 2**20 // sample_bytes
    assert held_bytes(spool) <= 2**20


def test_an_answer_for_which_there_is_no_room_any_more_is_dropped_and_said(
    spool: Spool, settings: MakeSettings
) -> None:
    bench = Bench(spool, settings(pool_images=4))
    bench.keeper.turn()
    with spool.transaction() as transaction:
        transaction.execute("UPDATE pool_requests SET quota_bytes = 200")

    assert answer(spool, sent(spool)[0]) == "stock_failed"

    assert shelf(spool).images == 0
    assert "there is no room" in (shelf(spool).error or "")


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule_id": "0" * 16},
        {"t_stop": 61},
        {"x": np.zeros((2, 3, 8, 8), np.float16)},
        {"x": np.zeros((2, 1, 8, 8), np.float32)},
        {"first": 63},
    ],
)
def test_an_answer_to_another_question_is_not_taken_into_stock(
    spool: Spool, settings: MakeSettings, changes: dict[str, Any]
) -> None:
    bench = Bench(spool, settings(pool_images=4))
    bench.keeper.turn()

    assert deliver(spool, part(sent(spool)[0], 0, 2, **changes)) == "stock_failed"

    assert (shelf(spool).images, shelf(spool).requested, shelf(spool).failures) == (0, 0, 1)
    assert sent(spool) == []


def test_a_label_that_nobody_knows_is_not_asked_for(spool: Spool, settings: MakeSettings) -> None:
    Bench(spool, settings(pool_images=4, pool_labels=(1, 7))).keeper.turn()
    assert [request.labels.tolist()[0] for request in sent(spool) if request.labels is not None] == [1]


QUOTA = {"inbox_max_bytes": 2**20}
LARGE = HeadFacts("large", SCHEDULE, 60, (3, 128, 128), 3)
"""Of whose samples ten fill a quota of 1 MiB, with 5 % of it to spare."""


def quota_filled(spool: Spool, settings: EdgeSettings) -> Bench:
    """A bench whose shelves have taken all the room that there is."""
    bench = Bench(spool, settings)
    bench.facts = LARGE
    while True:
        bench.keeper.turn()
        requests = sent(spool)
        if not requests:
            return bench
        confirm(spool)
        for request in requests:
            assert answer(spool, request) == "kept"


def test_a_shelf_for_which_there_is_no_room_says_so_in_the_status_until_there_is(
    spool: Spool, settings: MakeSettings
) -> None:
    quota_filled(spool, settings(pool_images=100, **QUOTA))
    assert (shelf(spool).images, shelf(spool).failures) == (10, 0)
    assert "samples at the cut take all the room" in (shelf(spool).error or "")
    bench = Bench(spool, settings(pool_images=100, inbox_max_bytes=2**21))
    bench.facts = LARGE
    bench.keeper.turn()
    assert shelf(spool).error is None


def test_a_shelf_that_is_not_wanted_any_more_makes_room_for_one_that_is(
    spool: Spool, settings: MakeSettings
) -> None:
    quota_filled(spool, settings(pool_images=10, **QUOTA))
    bench = Bench(spool, settings(pool_images=4, pool_labels=(2,), **QUOTA))
    bench.facts = LARGE
    bench.keeper.turn()
    (request,) = sent(spool)
    assert (request.n, shelf(spool).images) == (4, 6)
    confirm(spool)
    assert answer(spool, request) == "kept"
    assert (shelf(spool, 2).images, shelf(spool, 2).error) == (4, None)
    assert held_bytes(spool) <= 2**20


def test_what_a_shelf_has_beyond_what_is_wanted_makes_room_and_the_rest_stays(
    spool: Spool, settings: MakeSettings
) -> None:
    quota_filled(spool, settings(pool_images=10, pool_labels=(0,), **QUOTA))
    bench = Bench(spool, settings(pool_images=6, pool_labels=(0, 1), **QUOTA))
    bench.facts = LARGE
    bench.keeper.turn()
    (request,) = sent(spool)
    assert (request.n, shelf(spool, 0).images) == (4, 6)


def test_a_full_quota_does_not_keep_samples_of_the_old_kind_for_ever(
    spool: Spool, settings: MakeSettings
) -> None:
    quota_filled(spool, settings(pool_images=10, server_steps=16, **QUOTA))
    bench = quota_filled(spool, settings(pool_images=10, server_steps=8, **QUOTA))
    bench.keeper.turn()
    assert (shelf(spool).images, shelf(spool).usable, shelf(spool).error) == (10, 10, None)


def test_a_shelf_that_is_not_wanted_any_more_keeps_what_it_has(spool: Spool, settings: MakeSettings) -> None:
    filled(spool, settings(pool_images=4))
    bench = Bench(spool, settings(pool_images=4, pool_labels=(1,)))
    bench.keeper.turn()
    assert (shelf(spool).images, shelf(spool).wanted) == (4, 0)
    assert shelf(spool, 1).requested == 4
