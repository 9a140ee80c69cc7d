"""A plan as its reader sees it: in the width of the terminal, one of a thing in the singular, and nothing cut off."""

import io
import re

import pytest
from rich.console import Console

from collafuse.plan.demand import Demand
from collafuse.plan.estimate import estimate
from collafuse.plan.item import Plan
from collafuse.plan.quantity import SINGULAR, in_words
from collafuse.plan.table import show

FLEETS = (1, 100, 5_000, 100_000)


def planned(devices: int, **values: object) -> Plan:
    return estimate(Demand.of(devices=devices, images_per_day=20, **values))


def shown(plan: Plan, columns: int) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    show(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("devices", FLEETS)
def test_all_of_a_plan_is_there_in_the_width_of_the_terminal(devices: int, columns: int) -> None:
    plan = planned(devices, node_price=120, worker_price=900)

    lines = shown(plan, columns)

    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    for item in plan.items:
        value = f"{in_words(item.value, item.unit)} {item.how}"
        assert (
            value if columns < 80 else f"{item.name} {value}"
        ) in text  # in 60 a long name takes two lines
    if columns < 120:  # beside its figure a long source is broken between the lines of the table
        for words in [item.source for item in plan.items] + [each.text for each in plan.assumptions]:
            assert words in text
    sections = {item.section for item in plan.items}
    begun = {line.rstrip() for line in lines if line.rstrip() and not line.startswith(" ")}
    assert {line for line in begun if not line.startswith("warning")} == sections | {"assumed"}


@pytest.mark.parametrize("devices", FLEETS)
def test_one_of_a_thing_is_told_in_the_singular(devices: int) -> None:
    lines = shown(planned(devices, replication="1"), 80)

    plurals = "|".join(SINGULAR.keys() - {"series"})
    assert not [line for line in lines if re.search(rf"(?<![\d,.])1 ({plurals})\b", line)]


def test_every_noun_that_a_plan_counts_has_its_singular() -> None:
    units = {item.unit.removesuffix("/s") for item in planned(100, node_price=1).items}

    assert units - {"bytes", "s", "h", "of 1", "of your currency"} <= SINGULAR.keys()


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (100_000, "connections", "100,000 connections"),
        (1, "nodes", "1 node"),
        (1.0, "evaluations/s", "1 evaluation/s"),
        (1, "series", "1 series"),
        (33.2e9, "bytes", "33.2 GB"),
        (936, "bytes/s", "936 B/s"),
        (1 / 3600, "messages/s", "1 message/h"),
        (0.00347, "messages/s", "12.5 messages/h"),
        (3 / 86_400, "messages/s", "3 messages/day"),
        (0, "messages/s", "0 messages/s"),
        (0.0138, "of 1", "1.4 %"),
        (0.0996, "of 1", "10 %"),
        (0.625, "of 1", "62 %"),
        (0.996, "of 1", "100 %"),
        (1.5, "of 1", "150 %"),
        (1.1e-6, "of 1", "under 0.01 %"),
        (0.021, "h", "75.6 s"),
        (24, "h", "24 h"),
        (5581, "h", "233 days"),
        (10**6, "h", "114 years"),
        (None, "workers", "unknown"),
    ],
)
def test_values_are_told_in_units_that_people_read(value: float | None, unit: str, words: str) -> None:
    assert in_words(value, unit) == words
