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
    (tmp_path / "segments" / ("ab" * 32 + ".safetensors")).write_bytes(b"broken")
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


def test_samples_names_what_is_held_out_and_who_was_forgotten(filled: Path) -> None:
    assert CliRunner().invoke(app, ["forget", "plant", "--storage", str(filled), "--yes"]).exit_code == 0
    result = CliRunner().invoke(
        app, ["samples", "--storage", str(filled), "--held-out-share", "0.5", "--json"]
    )
    shown = json.loads(result.stdout)
    assert (shown["samples"], shown["held_out"]) == (8, 4)
    assert [(each["client"], each["state"], each["batches"]) for each in shown["forgotten"]] == [
        ("plant", "complete", 1)
    ]
    assert (
        "forgotten: plant: complete" in CliRunner().invoke(app, ["samples", "--storage", str(filled)]).stdout
    )


def test_forget_asks_first_and_erases_nothing_without_a_yes(filled: Path) -> None:
    result = CliRunner().invoke(app, ["forget", "clinic", "--storage", str(filled)], input="n\n")
    assert result.exit_code == 1
    assert "2 batches, 8 samples" in result.output
    assert SampleStore(Storage(filled)).samples == 12
    assert CliRunner().invoke(app, ["forget", "clinic", "--storage", str(filled)], input="y\n").exit_code == 0
    assert SampleStore(Storage(filled)).samples == 4


def test_forget_prints_a_receipt_for_people_and_for_programs(filled: Path) -> None:
    text = CliRunner().invoke(app, ["forget", "clinic", "--storage", str(filled), "--yes"]).stdout
    assert all(words in text for words in ("clinic was forgotten", "2 batches, 8 samples", "NOT CHECKED"))
    receipt = json.loads(
        CliRunner().invoke(app, ["forget", "plant", "d1", "--storage", str(filled), "--yes", "--json"]).stdout
    )
    assert (receipt["client"], receipt["device"], receipt["batches"], receipt["samples"]) == (
        "plant",
        "d1",
        1,
        4,
    )


def test_forget_can_be_lifted_once(filled: Path) -> None:
    CliRunner().invoke(app, ["forget", "clinic", "--storage", str(filled), "--yes"])
    lifted = CliRunner().invoke(app, ["forget", "clinic", "--storage", str(filled), "--lift"])
    assert "may contribute again" in lifted.stdout
    assert "not forgotten" in str(failure("forget", "clinic", "--storage", str(filled), "--lift"))


@pytest.mark.parametrize("names", [("Clinic",), ("clinic", "d_1"), ("../x",)])
def test_forget_takes_only_what_can_be_a_name(filled: Path, names: tuple[str, ...]) -> None:
    assert "is not usable" in str(failure("forget", *names, "--storage", str(filled), "--yes"))


def test_samples_in_the_old_format_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "samples" / "ab").mkdir(parents=True)
    error = str(failure("samples", "--storage", str(tmp_path)))
    assert "collafuse-samples-v1" in error
    assert "move away" in error


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
