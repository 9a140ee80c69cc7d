"""The bookkeeping of the fleet, with reports and a clock that the test hands over."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.contract.telemetry import StepTimes, TelemetryV1
from edge_agent.generation import jobs
from monitoring.exporter.fleet.believed import BOUNDS, COUNTED, FIGURES, GAUGE_BOUNDS, STEP_SECONDS, STEPS
from monitoring.exporter.fleet.device import LATE_SECONDS, OTHER_HEAD, OUTCOMES, Head
from monitoring.exporter.fleet.doubts import DOUBT_SECONDS, DOUBTS_MAX, NAMED, OTHERS
from monitoring.exporter.fleet.fleet import HEADS_SHOWN, Fleet
from monitoring.metrics import STEP_BUCKETS_SECONDS
from tests.monitoring.exporter.fleet.reports import head, report, update


def note(
    fleet: Fleet, user: str, said: TelemetryV1, now_seconds: float = 0.0, *, is_redelivered: bool = False
) -> None:
    fleet.note(user, said, is_redelivered=is_redelivered, now_seconds=now_seconds, at=1e9 + now_seconds)


def test_the_outcomes_are_those_that_an_agent_counts() -> None:
    assert OUTCOMES == jobs.ENDED


def test_a_device_reports_then_is_silent_then_is_gone() -> None:
    fleet = Fleet(device_expires_seconds=1000.0)
    note(fleet, "clinic_a", report(interval_seconds=60.0, gauges={"outbox_bytes": 5.0}))
    note(fleet, "clinic_b", report(interval_seconds=300.0, gauges={"outbox_bytes": 7.0}))

    def seen(now_seconds: float) -> tuple[int, int, float]:
        picture = fleet.picture(now_seconds)
        return picture.reporting, picture.silent, picture.outbox_bytes

    assert seen(180.0) == (2, 0, 12.0)
    assert seen(181.0) == (1, 1, 7.0)
    assert seen(901.0) == (0, 2, 0.0)
    assert seen(1001.0) == (0, 0, 0.0)
    assert fleet.picture(1001.0).listed == ()


@pytest.mark.parametrize(("said", "believed"), [(0.0, 1.0), (2_000_000.0, 86_400.0)])
def test_an_interval_that_no_agent_can_be_set_to_is_not_believed(said: float, believed: float) -> None:
    fleet = Fleet(device_expires_seconds=1e9)
    note(fleet, "clinic_a", report(interval_seconds=said))

    assert fleet.picture(3 * believed).reporting == 1
    assert fleet.picture(3 * believed + 1).silent == 1


def test_what_was_done_before_the_first_report_counts_for_nothing_and_all_since_counts_once() -> None:
    fleet = Fleet()
    note(fleet, "clinic_a", report(7, counters={"jobs_completed": 100, "jobs_failed": 2, "releases": 40}))
    assert fleet.picture(0).totals.jobs == {"completed": 0, "failed": 0, "expired": 0}

    note(fleet, "clinic_a", report(8, counters={"jobs_completed": 103, "jobs_failed": 2, "releases": 44}))
    note(fleet, "clinic_b", report(1, counters={"jobs_completed": 1}))
    note(fleet, "clinic_b", report(2, counters={"jobs_completed": 3, "jobs_expired": 1}))

    totals = fleet.picture(0).totals
    assert totals.jobs == {"completed": 5, "failed": 0, "expired": 1}
    assert totals.releases == 4
    assert totals.reports == 4


def test_a_device_that_begins_anew_has_done_all_that_it_counts_since_then() -> None:
    fleet = Fleet()
    note(fleet, "clinic_a", report(900, counters={"jobs_completed": 100}))
    note(fleet, "clinic_a", report(1, counters={"jobs_completed": 3}))
    note(fleet, "clinic_a", report(2, counters={"jobs_completed": 4}))

    assert fleet.picture(0).totals.jobs["completed"] == 4


def test_a_report_that_comes_again_counts_once() -> None:
    fleet = Fleet()
    for sequence, completed in ((5, 10), (6, 11), (7, 12)):
        note(fleet, "clinic_a", report(sequence, counters={"jobs_completed": completed}))
    # The link broke before the broker knew that they were taken; and a device sends again what was not confirmed.
    note(fleet, "clinic_a", report(6, counters={"jobs_completed": 11}), is_redelivered=True)
    note(fleet, "clinic_a", report(7, counters={"jobs_completed": 12}), is_redelivered=True)
    note(fleet, "clinic_a", report(7, counters={"jobs_completed": 12}))

    totals = fleet.picture(0).totals
    assert totals.jobs["completed"] == 2
    assert totals.reports == 3


def test_what_no_device_can_have_done_counts_for_nothing() -> None:
    fleet = Fleet()
    note(fleet, "clinic_a", report(1))
    note(fleet, "clinic_a", report(2, counters={"releases": 2**53}))
    note(fleet, "clinic_a", report(3, counters={"releases": 2**53 - 10}))
    assert fleet.picture(0).totals.releases == 0

    note(fleet, "clinic_a", report(4, counters={"releases": 2**53 - 9}))
    assert fleet.picture(0).totals.releases == 1


def test_a_device_that_reports_very_often_moves_the_sums_no_faster() -> None:
    fleet, most = Fleet(), int(COUNTED.most)
    for number in range(100):
        counters = {"jobs_failed": number * most // 2, "releases": number * most // 2}
        note(fleet, "clinic_a", report(1 + number, counters=counters), now_seconds=0.01 * number)
    totals = fleet.picture(1).totals
    assert totals.jobs["failed"] + totals.releases <= most + COUNTED.per_second

    note(fleet, "clinic_a", report(200, counters={"releases": 7}), now_seconds=10)
    assert fleet.picture(10).totals.releases == totals.releases + 7, "it counts again with time"


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 9),
            st.integers(0, 2**53),
            st.booleans(),
            st.floats(0, 1e6),
        ),
        max_size=30,
    )
)
def test_counters_never_fall_and_memory_keeps_its_bound(
    said: list[tuple[str, int, int, bool, float]],
) -> None:
    fleet = Fleet(devices_max=2, device_expires_seconds=1e5)

    def counted() -> Iterator[tuple[int, ...]]:
        now_seconds = 0.0
        for device, sequence, count, is_redelivered, waited in said:
            now_seconds += waited
            one = report(sequence, counters={"jobs_completed": count, "releases": count // 2})
            note(fleet, f"clinic_{device}", one, now_seconds, is_redelivered=is_redelivered)
            picture = fleet.picture(now_seconds)
            assert picture.reporting + picture.silent <= 2
            yield picture.totals.jobs["completed"], picture.totals.releases, picture.totals.reports

    for earlier, later in pairwise(counted()):
        assert all(before <= after for before, after in zip(earlier, later, strict=True))


def test_beyond_the_bound_the_device_heard_of_longest_ago_is_forgotten() -> None:
    fleet = Fleet(devices_max=2)
    for now, user in enumerate(("clinic_a", "clinic_b", "clinic_c")):
        note(fleet, user, report(1), float(now))
    note(fleet, "clinic_b", report(2), 3.0)
    note(fleet, "clinic_d", report(1), 4.0)

    assert [user for user, _, _ in fleet.picture(5.0).listed] == ["clinic_b", "clinic_d"]


def test_heads_are_counted_and_the_rare_ones_are_counted_together() -> None:
    fleet = Fleet()
    for number in range(HEADS_SHOWN + 5):
        note(fleet, f"clinic_{number}", report(runs=head(version=f"{number:02d}")))
    note(fleet, "clinic_gpu", report(runs=head(version="24", provider="cuda")))
    for number in range(3):
        note(fleet, f"ward_{number}", report(runs=head(version="24")))
    note(fleet, "clinic_none", report())

    heads = fleet.picture(0).heads
    assert heads[0] == (Head("ward", "24", "cpu"), 4)
    assert len(heads) == HEADS_SHOWN + 1
    assert heads[-1] == (OTHER_HEAD, 6)
    assert sum(count for _, count in heads) == HEADS_SHOWN + 5 + 1 + 3


def test_a_head_that_is_another_at_every_report_gets_no_name() -> None:
    fleet = Fleet()
    for sequence in range(1, 41):
        note(fleet, "clinic_a", report(sequence, runs=head(version=f"v{sequence}")), 60.0 * sequence)
    assert fleet.picture(2400.0).heads == ((OTHER_HEAD, 1),)

    note(fleet, "clinic_a", report(41, runs=head(version="v40")), 2400.0 + 86_400.0 * 2)
    assert fleet.picture(2400.0 + 86_400.0 * 2).heads == ((Head("ward", "v40", "cpu"), 1),)


def test_sums_are_of_the_devices_that_say_and_extremes_of_those_that_know() -> None:
    fleet = Fleet()
    empty = fleet.picture(0)
    assert (empty.outbox_bytes, empty.outbox_oldest_seconds, empty.epsilon_max, empty.image_joules) == (
        0,
        None,
        None,
        None,
    )
    note(
        fleet,
        "clinic_a",
        report(
            gauges={
                "outbox_bytes": 3.0,
                "outbox_oldest_seconds": 60.0,
                "pool_images": 4.0,
                "pool_wanted": 8.0,
                "epsilon_max": 2.5,
                "image_joules": 1.0,
            },
            dealt_with=update("installed"),
        ),
    )
    note(
        fleet,
        "clinic_b",
        report(gauges={"outbox_bytes": 4.0, "image_joules": 3.0}, dealt_with=update("refused")),
    )
    note(fleet, "clinic_c", report(dealt_with=update("installed")))

    picture = fleet.picture(0)
    assert picture.outbox_bytes == 7.0
    assert picture.outbox_oldest_seconds == 60.0
    assert (picture.pool_images, picture.pool_wanted) == (4.0, 8.0)
    assert picture.epsilon_max == 2.5
    assert picture.image_joules == 2.0
    assert picture.updates == {"installed": 2, "refused": 1}


@pytest.mark.parametrize("name", GAUGE_BOUNDS)
def test_a_figure_beyond_its_bound_is_as_if_it_were_not_said_and_is_counted(name: str) -> None:
    fleet, bound = Fleet(), GAUGE_BOUNDS[name]
    note(fleet, "clinic_a", report(1, gauges={name: bound.most}))
    assert getattr(fleet.picture(0), name) == bound.most
    assert fleet.picture(0).distrusted[OTHERS, "figures"] == 0

    for sequence, said in ((2, 2 * bound.most), (3, -1.0)):
        note(fleet, "clinic_a", report(sequence, gauges={name: said}))
        assert getattr(fleet.picture(0), name) in {0, None}
    picture = fleet.picture(0)
    assert picture.totals.unbelieved == dict.fromkeys(FIGURES, 0) | {name: 2}
    assert picture.distrusted["clinic_a", "figures"] == 1


def test_one_that_lies_as_well_as_it_can_moves_what_is_told_of_all_no_further_than_the_bounds() -> None:
    honest, lied_to = Fleet(), Fleet()
    said = {"outbox_bytes": 1e6, "outbox_oldest_seconds": 5.0, "pool_images": 8.0, "image_joules": 2.0}
    for number in range(100):
        for fleet in (honest, lied_to):
            note(fleet, f"clinic_{number}", report(gauges=said))
    steps = StepTimes(bounds=(1.0,), counts=(10**9, 0), sum_seconds=1000.0)
    lie = {name: bound.most for name, bound in GAUGE_BOUNDS.items()}
    for sequence in range(1, 50):
        note(lied_to, "clinic_liar", report(sequence, gauges=lie, steps=steps))

    true, told = honest.picture(0), lied_to.picture(0)
    assert told.image_joules == true.image_joules, "a median, which one does not move"
    assert told.outbox_bytes - true.outbox_bytes == BOUNDS["outbox_bytes"].most
    assert told.pool_images - true.pool_images == BOUNDS["pool_images"].most
    assert told.late - true.late == 1
    assert told.totals.steps == {}
    assert told.totals.unbelieved["step_seconds"] == 49


def test_an_interval_and_an_uptime_that_cannot_be_are_counted_too() -> None:
    fleet = Fleet()
    also_so_called = {"interval_seconds": 60.0, "uptime_seconds": 1.0}
    absurd = report(interval_seconds=0.5, gauges=also_so_called).model_copy(update={"uptime_seconds": 3e9})
    note(fleet, "clinic_a", absurd)

    picture = fleet.picture(0)
    assert picture.listed[0][1].uptime_seconds is None
    assert {name for name, count in picture.totals.unbelieved.items() if count} == {
        "interval_seconds",
        "uptime_seconds",
    }


def test_few_that_are_distrusted_are_named_the_others_counted_and_all_forgiven_with_time() -> None:
    fleet = Fleet()
    for number in range(DOUBTS_MAX + 5):
        fleet.refuse("not_msgpack", f"clinic_{number}", 0.0)
    fleet.refuse("no_user_id", None, 0.0)
    while fleet.admits("clinic_flood", 2**24, 0.0):
        pass

    told = fleet.picture(1.0).distrusted
    assert {device for device, _ in told} == {OTHERS, *(f"clinic_{number}" for number in range(NAMED))}
    assert told[OTHERS, "refused"] == DOUBTS_MAX - NAMED
    assert told[OTHERS, "flood"] == 1, "behind all these"
    fleet.refuse("not_msgpack", "clinic_3", 600.0)
    assert {
        pair: count for pair, count in fleet.picture(DOUBT_SECONDS + 1.0).distrusted.items() if count
    } == {("clinic_3", "refused"): 1}
    assert not any(fleet.picture(2000.0).distrusted.values())


def test_where_no_device_has_series_of_its_own_none_is_named_as_distrusted() -> None:
    fleet = Fleet(device_series_max=0)
    fleet.refuse("not_msgpack", "clinic_a", 0.0)
    assert fleet.picture(0.0).distrusted == {
        (OTHERS, "figures"): 0,
        (OTHERS, "refused"): 1,
        (OTHERS, "flood"): 0,
    }


def test_step_times_add_up_by_provider_and_the_device_shows_the_mean_of_the_last() -> None:
    fleet = Fleet()
    ours = StepTimes(
        bounds=STEP_BUCKETS_SECONDS, counts=(1, *([0] * (len(STEP_BUCKETS_SECONDS) - 1)), 2), sum_seconds=30.3
    )
    note(fleet, "clinic_a", report(1, runs=head(), steps=ours))
    note(fleet, "clinic_a", report(2, runs=head()))
    # Another program's bounds: 0.02 s lies within our 0.025 s.
    note(
        fleet,
        "clinic_b",
        report(runs=head(provider="cuda"), steps=StepTimes(bounds=(0.02,), counts=(4, 1), sum_seconds=21.0)),
    )

    picture = fleet.picture(0)
    counts, sum_seconds = picture.totals.steps["cpu"]
    assert (counts[0], counts[-1], sum(counts), sum_seconds) == (1, 2, 3, 30.3)
    counts, _ = picture.totals.steps["cuda"]
    assert (counts[STEP_BUCKETS_SECONDS.index(0.025)], counts[-1]) == (4, 1)
    assert {user: state.step_seconds for user, state, _ in picture.listed} == {
        "clinic_a": pytest.approx(10.1),
        "clinic_b": pytest.approx(4.2),
    }


@pytest.mark.parametrize(
    "steps",
    [
        StepTimes(bounds=(1.0,), counts=(2**53, 0), sum_seconds=1.0),
        StepTimes(bounds=(1.0,), counts=(1, 0), sum_seconds=-1.0),
        StepTimes(bounds=(1.0,), counts=(1, 0), sum_seconds=1e18),
        StepTimes(bounds=(1.0,), counts=(0, 0), sum_seconds=1.0),
        StepTimes(bounds=(1.0,), counts=(10**9, 0), sum_seconds=1.0),
        StepTimes(bounds=(1.0,), counts=(0, 1000), sum_seconds=998.0),
        StepTimes(bounds=(1.0,), counts=(0, 10**6), sum_seconds=1e6),
    ],
)
def test_step_times_that_cannot_be_are_left_out(steps: StepTimes) -> None:
    fleet = Fleet()
    note(fleet, "clinic_a", report(runs=head(), steps=steps))

    picture = fleet.picture(0)
    assert picture.totals.steps == {}
    assert picture.listed[0][1].step_seconds is None
    assert picture.totals.unbelieved["step_seconds"] == 1


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**9), st.floats(0, 1e6)), max_size=30))
def test_however_often_a_device_reports_its_steps_add_up_no_faster_than_a_device_can_make_them(
    said: list[tuple[float, int, float]],
) -> None:
    fleet, now_seconds = Fleet(), 0.0
    for sequence, (waited_seconds, count, sum_seconds) in enumerate(said):
        now_seconds += waited_seconds
        steps = StepTimes(bounds=(), counts=(count,), sum_seconds=sum_seconds)
        note(fleet, "clinic_a", report(sequence, runs=head(), steps=steps), now_seconds)

    counts, sum_seconds = fleet.picture(now_seconds).totals.steps.get("cpu", ((), 0.0))
    assert sum(counts) <= STEPS.most + STEPS.per_second * now_seconds
    assert sum_seconds <= STEP_SECONDS.most + STEP_SECONDS.per_second * now_seconds + 1e-6


def test_a_device_that_computes_day_and_night_is_believed() -> None:
    fleet, day_seconds = Fleet(), 86_400.0
    for day in range(30):
        count = int(day_seconds / 0.005)
        steps = StepTimes(bounds=(0.005, 0.01), counts=(count, 0, 0), sum_seconds=day_seconds - 60)
        note(fleet, "clinic_a", report(day, runs=head(), steps=steps), day * day_seconds)

    totals = fleet.picture(30 * day_seconds).totals
    assert sum(totals.steps["cpu"][0]) == 30 * int(day_seconds / 0.005)
    assert not any(totals.unbelieved.values())


def test_a_step_that_was_counted_before_its_time_was_added_does_not_spoil_a_report() -> None:
    fleet = Fleet()
    halfway = StepTimes(bounds=(0.5, 1.0), counts=(0, 2, 1), sum_seconds=1.2)
    note(fleet, "clinic_a", report(runs=head(), steps=halfway))
    assert sum(fleet.picture(0).totals.steps["cpu"][0]) == 3


def test_a_listed_device_stays_listed_while_it_reports_and_a_free_place_goes_to_who_was_heard_of_last() -> (
    None
):
    fleet = Fleet(device_series_max=2)

    def listed(now_seconds: float) -> list[tuple[str, bool]]:
        return [(user, is_reporting) for user, _, is_reporting in fleet.picture(now_seconds).listed]

    for now, user in enumerate("abcd"):
        note(fleet, f"clinic_{user}", report(1, interval_seconds=100.0), float(now))
    assert listed(4.0) == [("clinic_c", True), ("clinic_d", True)]
    for user in "ab":
        note(fleet, f"clinic_{user}", report(2, interval_seconds=100.0), 5.0)
    assert listed(6.0) == [("clinic_c", True), ("clinic_d", True)]
    assert fleet.picture(6.0).unlisted == 2

    note(fleet, "clinic_c", report(2, interval_seconds=100.0), 290.0)
    assert listed(304.0) == [("clinic_b", True), ("clinic_c", True)]  # clinic_d has fallen silent
    assert listed(1000.0) == [("clinic_b", False), ("clinic_c", False)]


def test_of_a_fleet_beyond_the_places_those_in_trouble_are_listed_whenever_they_were_heard_of() -> None:
    fleet = Fleet(device_series_max=8)

    def listed(now_seconds: float) -> dict[str, bool]:
        return {user: is_reporting for user, _, is_reporting in fleet.picture(now_seconds).listed}

    def all_report(now_seconds: float, sequence: int, *, but: str = "") -> None:
        for device in (each for each in "abcdefghijklmnopqrst" if each not in but):
            oldest = LATE_SECONDS + ord(device) if device in "abc" else 1.0
            gauges = {"outbox_oldest_seconds": oldest}
            said = report(sequence, interval_seconds=100.0, gauges=gauges)
            note(fleet, f"clinic_{device}", said, now_seconds)

    all_report(0.0, 1)
    late = {"clinic_b", "clinic_c"}  # the two that wait longest, of three: a quarter of the places
    assert set(listed(1.0)) == late | {f"clinic_{device}" for device in "opqrst"}

    all_report(100.0, 2, but="de")
    all_report(200.0, 3, but="def")
    silent = {"clinic_d": False, "clinic_e": False}
    shown = listed(301.0)
    assert silent.items() <= shown.items()
    assert late <= set(shown)
    assert len(shown) == 8

    note(fleet, "clinic_f", report(3, interval_seconds=100.0), 302.0)
    assert set(listed(303.0)) == set(shown), "series do not come and go while nothing happens"
    all_report(500.0, 4, but="f")
    assert "clinic_f" in {user for user, reports in listed(603.0).items() if not reports}


def test_without_places_no_device_is_listed() -> None:
    fleet = Fleet(device_series_max=0)
    note(fleet, "clinic_a", report())

    picture = fleet.picture(0)
    assert (picture.listed, picture.unlisted) == ((), 1)


def test_reporting_devices_whose_messages_wait_for_an_hour_are_counted() -> None:
    fleet = Fleet()
    for device, oldest in {"a": LATE_SECONDS, "b": LATE_SECONDS - 1, "c": 2 * LATE_SECONDS}.items():
        note(fleet, f"clinic_{device}", report(gauges={"outbox_oldest_seconds": oldest}))
    note(fleet, "clinic_d", report())
    assert fleet.picture(0).late == 2

    note(fleet, "clinic_a", report(2, gauges={"outbox_oldest_seconds": 0.0}), now_seconds=100)
    assert fleet.picture(100).late == 1
    assert fleet.picture(1000).late == 0, "who is silent counts as silent"


def test_of_more_devices_than_have_places_those_in_trouble_have_one() -> None:
    fleet = Fleet(device_series_max=4)
    fleet.note(
        "clinic_ill", report(gauges={"spool_damaged": 1.0}), is_redelivered=False, now_seconds=0.0, at=1.0
    )
    for number in range(20):
        fleet.note(f"clinic_{number}", report(), is_redelivered=False, now_seconds=1.0 + number, at=2.0)

    assert "clinic_ill" in {user for user, _, _ in fleet.picture(21.0).listed}
