"""Settings of the workers, wherever they come from."""

from pathlib import Path

import pytest

from broker.errors import ConfigError
from server_worker.settings import TrainSettings


def test_a_list_reads_the_same_as_a_flag_a_variable_and_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.toml"
    file.write_text("channel_multipliers = [1, 2, 4]\n")
    assert TrainSettings.load(file).channel_multipliers == (1, 2, 4)
    monkeypatch.setenv("COLLAFUSE_TRAIN_CHANNEL_MULTIPLIERS", "1,2")
    assert TrainSettings.load(file).channel_multipliers == (1, 2)
    assert TrainSettings.load(file, channel_multipliers="1,3").channel_multipliers == (1, 3)


def test_a_list_of_anything_else_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_TRAIN_CHANNEL_MULTIPLIERS", "1,two")
    with pytest.raises(ConfigError, match=r"the environment: channel_multipliers\.1: .*integer"):
        TrainSettings.load()


@pytest.mark.parametrize(("name", "largest"), [("round_seconds", 2_000_000), ("releases_wanted", 1_000_000)])
def test_what_the_broker_or_a_device_would_not_take_is_refused_at_the_start(name: str, largest: int) -> None:
    with pytest.raises(ConfigError, match=name):
        TrainSettings.load(None, **{name: largest + 1})
    assert getattr(TrainSettings.load(None, **{name: largest}), name) == largest
