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
