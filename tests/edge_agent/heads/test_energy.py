from pathlib import Path

import pytest

from edge_agent.errors import EnergyUnknown
from edge_agent.heads.energy import EnergyMeter


def zone(powercap: Path, name: str, kind: str, microjoules: int, limit: int = 999) -> Path:
    """A counter as the kernel shows it."""
    directory = powercap / name
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{kind}\n")
    (directory / "max_energy_range_uj").write_text(f"{limit}\n")
    (directory / "energy_uj").write_text(f"{microjoules}\n")
    return directory / "energy_uj"


def test_packages_are_added_up_their_parts_and_the_platform_left_out_and_a_counter_may_begin_again(
    tmp_path: Path,
) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 950)
    for name, kind in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl", "")):
        zone(tmp_path, name, kind, 0)
    meter = EnergyMeter(power_watts=50.0, powercap=tmp_path)
    before = meter.read()
    for file, now in ((first, 300), (second, 20)):
        file.write_text(str(now))

    assert meter.kind == "measured"
    assert before == (100, 950)
    assert meter.joules_since(before, 1.0) == pytest.approx((200 + 70) * 1e-6)


def test_where_nothing_can_be_read_time_and_power_are_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    meter = EnergyMeter(power_watts=4.0, powercap=tmp_path)
    assert meter.kind == "estimated"
    assert meter.joules_since(meter.read(), 2.5) == 10.0
    meter.require()


def test_a_counter_that_goes_away_leaves_the_estimate(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    meter = EnergyMeter(power_watts=4.0, powercap=tmp_path)
    before = meter.read()
    counter.unlink()
    assert meter.joules_since(before, 2.0) == 8.0


def test_a_budget_of_energy_that_nobody_can_keep_is_one_clear_error(tmp_path: Path) -> None:
    meter = EnergyMeter(powercap=tmp_path)
    assert meter.kind is None
    assert meter.joules_since(meter.read(), 1.0) is None
    with pytest.raises(EnergyUnknown, match="power_watts, or give the budget as budget_ms"):
        meter.require()
