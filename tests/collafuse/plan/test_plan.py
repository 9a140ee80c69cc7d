"""The planner: plain arithmetic on measured figures and weighed messages, whose every number says where it comes from."""

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import plan_figures
from broker.topology import SAMPLES_MAX_BYTES
from collafuse.plan import keeping
from collafuse.plan.basis import Basis
from collafuse.plan.demand import Demand
from collafuse.plan.errors import PlanRefused
from collafuse.plan.estimate import estimate
from collafuse.plan.figures import FIGURES, kept
from collafuse.plan.item import Plan
from collafuse.plan.nodes import nodes_of
from collafuse.plan.traffic import worst_hours
from monitoring.catalogue import CataloguedMetric
from monitoring.exporter.fleet.fleet import DEVICE_SERIES_MAX
from server_worker.samples.rewriting import SEGMENT_BYTES

ROOT = Path(__file__).parents[3]


def planned(**values: object) -> Plan:
    return estimate(Demand.of(**{"devices": 1000, "images_per_day": 20, **values}))


def known(plan: Plan, name: str) -> float:
    value = plan.value(name)
    assert value is not None
    return value


def test_the_shipped_figures_are_the_kept_results() -> None:
    assert json.loads(FIGURES.read_text()) == plan_figures.made(), "run python -m benchmarks.plan_figures"


def test_every_figure_names_its_benchmark_and_every_line_its_origin() -> None:
    for name in plan_figures.WANTED:
        assert kept()[name].source.startswith("benchmark ")
        assert kept()[name].value > 0
    plan = planned(node_price=10)
    assert all(item.source and item.how for item in plan.items)
    assert len({item.name for item in plan.items if item.section != "cost a month"}) == len(
        [item for item in plan.items if item.section != "cost a month"]
    )


def test_a_message_weighs_what_its_arrays_and_little_else_take() -> None:
    sizes = Basis.of(Demand(devices=1, images_per_day=20, images_per_request=4), kept()).sizes

    image_bytes = 3 * 32 * 32 * 2
    assert sizes.images_per_samples == 20
    assert 20 * (image_bytes + 4) < sizes.samples.body_bytes < 20 * (image_bytes + 4) + 400
    assert sizes.samples.body_bytes < sizes.samples.up_bytes < sizes.samples.body_bytes + 600
    assert 4 * image_bytes < sizes.answer.body_bytes < 4 * image_bytes + 500
    assert image_bytes < sizes.stored_sample_bytes < image_bytes + 100


def test_int8_halves_the_samples_and_float32_doubles_them() -> None:
    half, one, two = (
        known(planned(release_dtype=dtype), "of it samples") for dtype in ("int8", "float16", "float32")
    )

    assert one / half == pytest.approx(2, rel=0.05)
    assert two / one == pytest.approx(2, rel=0.05)


def test_twice_the_devices_are_twice_the_traffic_the_memory_and_the_samples() -> None:
    small, large = planned(devices=50_000), planned(devices=100_000)

    for name in (
        "from all devices",
        "to all devices",
        "memory of all devices",
        "sample store",
        "connections",
    ):
        assert known(large, name) == pytest.approx(2 * known(small, name), rel=1e-6)


def test_more_devices_than_a_node_can_hold_take_more_nodes() -> None:
    few, many = planned(devices=100), planned(devices=1_000_000)

    assert known(few, "broker nodes") == known(few, "nodes for the queues' members") == 3
    by_hand = 1_000_000 * kept()["working_kilobytes"].value * 1e3 / (0.4 * 16e9 - 3 * 512 * 2**20)
    assert known(many, "nodes for memory") == -(-by_hand // 1)
    assert known(many, "broker nodes") >= known(many, "nodes for memory")


def test_a_nodes_link_carries_what_goes_to_devices_workers_and_members() -> None:
    values = {"devices": 100_000, "node_link_gbit": 0.01, "utilisation": 0.5}
    alone, three = planned(**values, replication="1"), planned(**values, replication="3")
    traffic = Basis.of(Demand.of(images_per_day=20, **values), kept()).traffic

    both_ways = known(alone, "from all devices") + known(alone, "to all devices")
    queued = traffic.samples.up_bytes_per_second + traffic.requests.up_bytes_per_second

    link_bytes = 0.01e9 / 8 * 0.5
    assert known(alone, "nodes for the link") == -(-both_ways // link_bytes)
    assert known(three, "nodes for the link") == -(-(both_ways + 2 * queued) // link_bytes)
    assert known(three, "nodes for the link") > known(alone, "nodes for the link")


def test_a_node_has_room_for_all_that_waits_however_many_nodes_there_are() -> None:
    small = planned(devices=100_000, node_memory_gb=6)
    large = planned(devices=100_000, node_memory_gb=64)

    assert known(small, "broker nodes") > known(large, "broker nodes") == 3
    waiting = known(small, "bytes in the queue samples") + known(small, "bytes in the queue denoise")
    for plan in (small, large):
        assert known(plan, "disk of a node for them") >= waiting + 512 * 2**20


def test_no_value_that_is_taken_has_no_plan() -> None:
    """Those at the ends of their ranges, one at a time."""
    for name, field in Demand.model_fields.items():
        for limit in field.metadata:
            value = getattr(limit, "ge", getattr(limit, "le", None))
            if value is not None and name not in {
                "devices",
                "channels",
                "image_size",
                "schedule_steps",
                "cut_ratio",
            }:
                with contextlib.suppress(PlanRefused):
                    json.dumps(asdict(planned(**{name: value})), allow_nan=False)


def test_workers_are_counted_at_the_peak_and_below_their_capacity() -> None:
    plan = planned(devices=100_000, step_seconds=0.01, step_batch=64, utilisation=0.5, peak_factor=2)

    mean = 100_000 * 20 * 16 / 86_400
    assert known(plan, "evaluations, busiest hour") == pytest.approx(2 * mean)
    assert known(plan, "denoise workers") == -(-2 * mean // (6400 * 0.5))
    assert not any("GPU" in warning for warning in plan.warnings)


def test_without_a_gpu_figure_the_plan_says_so_and_an_unmeasured_shape_needs_a_step() -> None:
    assert any("no GPU figure" in warning for warning in planned().warnings)
    assert known(planned(), "evaluations of one worker") == kept()["evaluations_of_3x32x32"].value

    unmeasured = planned(image_size=64)

    assert unmeasured.value("denoise workers") is None
    assert any("give --step-seconds" in warning for warning in unmeasured.warnings)


def test_a_queue_takes_what_it_may_and_the_devices_keep_the_rest() -> None:
    short, long = planned(devices=20_000, hours_away=1), planned(devices=20_000, hours_away=240)

    assert known(short, "bytes in the queue samples") < SAMPLES_MAX_BYTES
    assert known(short, "outbox of a device") == 0
    assert known(long, "bytes in the queue samples") == SAMPLES_MAX_BYTES
    assert known(long, "outbox of a device") > 0
    assert any("fill the queue of samples" in warning for warning in long.warnings)


def test_the_worst_hours_are_at_the_peak_and_a_day_is_never_more_than_a_day() -> None:
    assert [worst_hours(hours, 3) for hours in (0, 1, 8, 24, 25)] == [0, 3, 24, 24, 27]


def test_one_queue_that_is_too_busy_for_its_node_is_said_to_be() -> None:
    basis = Basis.of(Demand(devices=50_000_000, images_per_day=20), kept())

    assert nodes_of(basis).busiest_queue > 0.5
    assert any("several federations" in warning for warning in planned(devices=50_000_000).warnings)


def test_prices_are_the_users_and_without_any_there_is_no_cost() -> None:
    assert not [item for item in planned().items if item.section == "cost a month"]

    priced = planned(node_price=100, storage_price=0.02)

    assert known(priced, "all of these") == pytest.approx(300 + 0.02 * known(priced, "sample store") / 1e9)
    assert priced.items[-1].name == "all of these"


def test_series_grow_with_the_workers_and_with_no_more_devices_than_are_listed() -> None:
    device = CataloguedMetric("exporter", "collafuse_device_reporting", "gauge", ("device",), "")
    waits = CataloguedMetric("exporter", "collafuse_waits", "histogram", ("queue",), "")

    assert keeping.series_of([device], 40) == 40
    assert keeping.series_of([device, waits], 10**6) == 1000 + 5 * 20
    assert keeping.series(3, 10) - keeping.series(2, 10) == keeping.series(2, 10) - keeping.series(1, 10) > 0


def test_the_store_merges_to_segments_of_the_size_planned_with() -> None:
    assert keeping.SEGMENT_BYTES == SEGMENT_BYTES


def test_the_exporter_lists_as_many_devices_as_are_planned_with() -> None:
    assert keeping.LISTED_DEVICES == DEVICE_SERIES_MAX


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"devices": 0}, ("--devices", "greater than or equal to 1", "0")),
        ({"cut_ratio": 1.5}, ("--cut-ratio", "less than or equal to 1")),
        ({"cut_ratio": 0.0}, ("--cut-ratio", "clean images")),
        ({"server_steps": 900}, ("--server-steps", "800")),
        ({"image_size": 1024}, ("--image-size", "one message")),
        ({"node_memory_gb": 2}, ("--node-memory-gb", "write-ahead log")),
        ({"utilisation": 1e-320}, ("--utilisation", "0.01")),
        ({"node_link_gbit": 1e-320}, ("--node-link-gbit", "0.001")),
        ({"device_link_mbit": 1e-320}, ("--device-link-mbit", "0.0001")),
        ({"rollout_hours": 1e-320}, ("--rollout-hours", "0.01")),
        ({"round_seconds": 1e-320}, ("--round-seconds", "0.01")),
        ({"step_seconds": 1e-320}, ("--step-seconds", "0.000001")),
        ({"node_price": 1e308}, ("--node-price", "1000000000")),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(
    flags: dict[str, object], words: tuple[str, ...]
) -> None:
    with pytest.raises(PlanRefused) as refused:
        planned(**flags)

    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_the_command_prints_a_table_or_one_object() -> None:
    command = [sys.executable, "-m", "collafuse", "plan", "--devices", "100000", "--images-per-day", "20"]

    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    told = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    wrong = subprocess.run(
        [*command, "--cut-ratio", "2"], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )

    found = json.loads(told.stdout)
    assert set(found) == {"demand", "items", "assumptions", "warnings"}
    assert "broker nodes" in shown.stdout
    assert "assumed" in shown.stdout
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: --cut-ratio")
