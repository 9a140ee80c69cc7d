from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from edge_agent.heads.calibration import HEAD_BATCH, StepMeter, measure
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.storage.spool import Spool

MakeHead = Callable[[int], Path]


def loaded(path: Path) -> HeadSlot:
    slot = HeadSlot(path, "cpu", 1)
    slot.refresh()
    return slot


def test_what_is_measured_is_what_a_step_takes(head_bundle: Path) -> None:
    slot = loaded(head_bundle)
    assert slot.loaded is not None
    head = slot.loaded.head
    x = np.zeros((HEAD_BATCH, *head.manifest.image_shape), np.float32)
    keys = np.arange(HEAD_BATCH)

    started = perf_counter()
    cost = measure(head, EnergyMeter(power_watts=5.0))
    spent = perf_counter() - started

    timed: list[float] = []
    for _ in range(9):
        head.finish(
            x,
            (60, 0),
            seeds=keys.astype(np.uint64),
            samples=keys,
            on_step=lambda _t, _s, took: timed.append(took),
        )
    assert 0 < cost.seconds_one < spent
    assert min(timed) / 20 < cost.seconds_batch < max(timed) * 20
    assert cost.kind == "estimated"
    assert cost.joules_one is not None
    assert 5.0 * cost.seconds_one / 20 < cost.joules_one < 5.0 * spent


def test_a_restart_remembers_and_another_head_or_thread_count_is_measured_anew(
    spool: Spool, make_head: MakeHead
) -> None:
    slot, energy = loaded(make_head(0)), EnergyMeter()
    first = StepMeter(spool, energy, 1)
    first.look(slot.loaded)
    again = StepMeter(spool, energy, 1)
    again.look(slot.loaded)

    assert first.cost is not None
    assert again.cost == first.cost
    assert rows(spool) == 1
    StepMeter(spool, energy, 2).look(slot.loaded)
    assert rows(spool) == 2
    again.look(loaded(make_head(1)).loaded)
    assert rows(spool) == 3
    assert again.cost != first.cost


def test_without_a_head_nothing_is_known(spool: Spool) -> None:
    meter = StepMeter(spool, EnergyMeter(), 1)
    meter.look(None)
    meter.note(1, 1.0)
    assert meter.cost is None


def test_joules_that_were_not_known_are_measured_once_the_power_is(spool: Spool, head_bundle: Path) -> None:
    slot = loaded(head_bundle)
    StepMeter(spool, EnergyMeter(), 1).look(slot.loaded)
    knowing = StepMeter(spool, EnergyMeter(power_watts=3.0), 1)
    knowing.look(slot.loaded)
    assert knowing.cost is not None
    assert knowing.cost.joules_one is not None
    assert knowing.cost.kind == "estimated"


def test_medians_of_real_steps_replace_what_was_measured_at_first(spool: Spool, head_bundle: Path) -> None:
    slot, energy = loaded(head_bundle), EnergyMeter(power_watts=2.0)
    meter = StepMeter(spool, energy, 1)
    meter.note(1, 1.0)
    meter.look(slot.loaded)
    before = meter.cost
    assert before is not None
    for seconds in (5.0, *[9.0] * 7):
        meter.note(1, seconds)
    meter.note(3, 100.0)
    assert meter.cost == before, "a few steps prove nothing"

    meter.note(1, 700.0)

    assert meter.cost is not None
    assert (meter.cost.seconds_one, meter.cost.seconds_batch) == (9.0, before.seconds_batch)
    assert before.joules_one is not None
    assert meter.cost.joules_one == pytest.approx(before.joules_one * 9.0 / before.seconds_one)
    again = StepMeter(spool, energy, 1)
    again.look(slot.loaded)
    assert again.cost == meter.cost


def rows(spool: Spool) -> int:
    return int(spool.rows("SELECT count(*) FROM step_costs")[0][0])
