import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.codec import digest, encode
from broker.errors import ConfigError
from monitoring.errors import CollafuseError, MonitoringError
from server_worker import versions
from server_worker.cli import app
from server_worker.errors import StorageUnusable
from server_worker.samples.store import SampleStore
from server_worker.settings import DenoiseSettings, TrainSettings
from server_worker.storage import Storage
from tests.server_worker.backbones import publish_backbone, sample_batch

BROKER = ("--broker-url", "amqp://user:word@127.0.0.1:1/x")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    store = SampleStore(Storage(tmp_path))
    for seed, client in enumerate(["clinic", "clinic", "plant"]):
        message = sample_batch(seed)
        store.add(message, digest(encode(message)), client, "d1")
    broken = tmp_path / "samples" / "ab" / ("ab" * 32 + ".safetensors")
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"broken")
    return tmp_path


def failure(*arguments: str) -> CollafuseError:
    """The error that the command would print as one line."""
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, CollafuseError), error
    assert "\n" not in str(error)
    return error


def test_samples_shows_what_is_stored_by_client_device_and_cut(filled: Path) -> None:
    result = CliRunner().invoke(app, ["samples", "--storage", str(filled), "--json"])
    shown = json.loads(result.stdout)
    assert shown["samples"] == 12
    assert [(row["client"], row["batches"], row["samples"], row["t_cut"]) for row in shown["groups"]] == [
        ("clinic", 2, 8, 40),
        ("plant", 1, 4, 40),
    ]
    assert sum(shown["groups"][0]["labels"].values()) == 8
    assert [damaged["batch"] for damaged in shown["quarantined"]] == ["ab" * 32]


def test_samples_prints_a_table(filled: Path) -> None:
    result = CliRunner().invoke(app, ["samples", "--storage", str(filled)])
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("clinic", "plant", "12 samples", "damaged"))


def test_versions_are_listed_with_what_they_are_worth(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = publish_backbone(storage)
    losses = {"low": 0.75, "middle": 0.5, "high": 0.25}
    manifest = replace(
        first.manifest, held_out_loss=0.5, held_out_by_level=losses, samples_by_client={"clinic": 8}
    )
    versions.publish(storage, dict(first.network.state_dict()), manifest)
    versions.name_best(storage, 2)

    shown = json.loads(CliRunner().invoke(app, ["versions", "--storage", str(tmp_path), "--json"]).stdout)

    assert (shown["latest"], shown["best"]) == (2, 2)
    assert [(row["number"], row["steps"], row["held_out_loss"]) for row in shown["versions"]] == [
        (1, 1, None),
        (2, 1, 0.5),
    ]
    assert shown["versions"][1]["samples_by_client"] == {"clinic": 8}
    table = CliRunner().invoke(app, ["versions", "--storage", str(tmp_path)]).stdout
    assert all(word in table for word in ("2 backbone versions", "0.7500", "latest", "best"))
    assert "no storage" in str(failure("versions", "--storage", str(tmp_path / "nowhere")))


def test_samples_of_a_storage_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "no storage" in str(failure("samples", "--storage", str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cut-min", "0.8", "--cut-max", "0.2"), ("cut_min 0.8", "cut_max 0.2")),
        (("--cut-min", "1.0"), ("no step to train",)),
        (("--cut-max", "1.5"), ("cut_max",)),
        (("--channel-multipliers", "1,two"), ("channel_multipliers",)),
        (("--base-channels", "9"), ("base_channels",)),
    ],
)
def test_impossible_settings_are_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    error = failure("train", *BROKER, *arguments)
    assert isinstance(error, ConfigError)
    assert all(word in str(error) for word in words), error


@pytest.mark.parametrize("command", ["train", "denoise"])
def test_an_unknown_key_in_the_file_is_named(tmp_path: Path, command: str) -> None:
    config = tmp_path / "worker.toml"
    config.write_text('storrage = "x"\n')
    assert "'storrage'" in str(failure(command, "--config", str(config)))


def test_an_image_that_cannot_be_halved_is_one_line(tmp_path: Path) -> None:
    message = str(failure("train", *BROKER, "--storage", str(tmp_path), "--image-size", "9"))
    assert "9 pixels" in message


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    error = failure("train", *BROKER, "--storage", str(tmp_path / "file" / "below"))
    assert isinstance(error, StorageUnusable)


def test_a_metrics_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = failure(
            "denoise", *BROKER, "--storage", str(tmp_path), "--device", "cpu", "--metrics-port", port
        )
    assert isinstance(error, MonitoringError)
    assert port in str(error)


def test_every_setting_is_an_option() -> None:
    for command, settings in (("train", TrainSettings), ("denoise", DenoiseSettings)):
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        for name in settings.model_fields:
            assert f"--{name.replace('_', '-').removesuffix('-seconds')}" in text
