"""What the planner says is held against fleets that really ran: a small one here, a large one as its results were kept."""

import json

import pytest

from benchmarks import fleet_plan
from benchmarks.devices import a_node
from benchmarks.report import RESULTS
from collafuse.plan.figures import STORM_DEVICES, kept

AGENTS = 50
IMAGES = 10
BYTES_FACTOR = 1.5
KEPT_FACTOR = 2.0


def kept_fleet(name: str) -> float:
    found = json.loads((RESULTS / "fleet.json").read_text())
    return float(next(each["ours"] for each in found["results"] if each["name"] == name))


def test_a_small_fleet_sends_and_gets_what_was_predicted() -> None:
    with a_node() as local:
        results = fleet_plan.beside(local, AGENTS, seconds=3.0, images=IMAGES)

    assert len(results) == 2
    for result in results:
        assert result.ratio is not None
        assert 1 / BYTES_FACTOR < result.ratio < BYTES_FACTOR, result


def test_devices_come_in_as_fast_as_the_kept_fleet_did() -> None:
    predicted = STORM_DEVICES / kept().connections_per_second
    measured = kept_fleet("links all: all sent and receipted after opening")

    assert predicted == pytest.approx(kept()["storm_seconds"].value)
    assert 1 / KEPT_FACTOR < predicted / measured < KEPT_FACTOR


def test_a_device_costs_what_enrolling_and_connecting_it_cost() -> None:
    parts = kept()["enrolled_kilobytes"].value + kept()["connected_kilobytes"].value

    assert 1 / KEPT_FACTOR < parts / kept()["working_kilobytes"].value < KEPT_FACTOR
