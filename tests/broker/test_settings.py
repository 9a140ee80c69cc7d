"""Settings: who wins, what is refused, and what is never shown."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from broker.errors import ConfigError
from broker.node.local_node import NodeInfo
from broker.settings import BROKER_URL_VARIABLE, BrokerSettings, ProcessSettings

URL = "amqps://hospital-a_pc-1:s3cret@broker.example:5673/federation"


class PressSettings(ProcessSettings):
    """Settings of a process that exists for these tests alone."""

    model_config = SettingsConfigDict(env_prefix="COLLAFUSE_PRESS_")
    node_directory: ClassVar[Path] = Path("/nonexistent/node")

    batch: int = Field(default=8, ge=1)
    storage: str
    token: SecretStr | None = None
    shape: tuple[int, ...] = (1, 8, 8)
    bake_seconds: float = 1.0


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BROKER_URL_VARIABLE, raising=False)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "press.toml"
    path.write_text('batch = 2\nstorage = "from-file"\n')
    return path


def failure(path: Path | None = None, **flags: object) -> str:
    """Loads what cannot be loaded, and returns the line."""
    with pytest.raises(ConfigError) as caught:
        PressSettings.load(path, **flags)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_file_comes_before_the_defaults(toml: Path) -> None:
    settings = PressSettings.load(toml)

    assert (settings.batch, settings.storage, settings.shape) == (2, "from-file", (1, 8, 8))


def test_the_environment_comes_before_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_BATCH", "3")
    monkeypatch.setenv("COLLAFUSE_PRESS_SHAPE", "[3, 32, 32]")

    settings = PressSettings.load(toml)

    assert (settings.batch, settings.storage, settings.shape) == (3, "from-file", (3, 32, 32))


def test_flags_come_before_everything_and_none_is_no_flag(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_BATCH", "3")

    settings = PressSettings.load(toml, batch=4, storage=None)

    assert (settings.batch, settings.storage) == (4, "from-file")


def test_building_the_settings_directly_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_BATCH", "3")
    monkeypatch.setenv(BROKER_URL_VARIABLE, URL)

    settings = PressSettings(storage="here")

    assert (settings.batch, settings.broker_url) == (8, None)


def test_an_unknown_key_in_the_file_fails_with_the_nearest_known(toml: Path) -> None:
    toml.write_text('storage = "x"\nbatchs = 2\n')

    line = failure(toml)

    assert "unknown key 'batchs'" in line
    assert "did you mean batch?" in line
    assert str(toml) in line


def test_an_unknown_variable_with_our_prefix_fails_with_the_nearest_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_STORAG", "x")

    line = failure()

    assert "COLLAFUSE_PRESS_STORAG" in line
    assert "did you mean COLLAFUSE_PRESS_STORAGE?" in line


def test_a_variable_named_after_an_option_without_its_unit_fails_with_the_whole_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_BAKE", "2")

    assert "did you mean COLLAFUSE_PRESS_BAKE_SECONDS?" in failure()


def test_variables_of_other_processes_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_OTHER_BATCH", "x")

    assert PressSettings.load(storage="here").batch == 8


def test_an_unknown_flag_fails(toml: Path) -> None:
    assert "speed" in failure(toml, speed=1)


def test_a_missing_setting_is_named() -> None:
    assert "storage is not set" in failure()


def test_a_wrong_value_is_named_with_its_origin_and_not_repeated(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_BATCH", "many")
    line = failure(toml)
    assert "the environment" in line
    assert "batch" in line
    assert "many" not in line

    monkeypatch.delenv("COLLAFUSE_PRESS_BATCH")
    toml.write_text('storage = "x"\nbatch = 0\n')
    assert str(toml) in failure(toml)
    assert "the command line" in failure(toml, batch=-1)


def test_a_variable_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_PRESS_SHAPE", "[3,")

    assert "shape" in failure(storage="x")


def test_a_file_that_is_missing_or_no_toml_fails_in_one_line(tmp_path: Path, toml: Path) -> None:
    assert "cannot read the settings" in failure(tmp_path / "none.toml")
    toml.write_text("batch = = 2")
    assert "not valid TOML" in failure(toml)
    toml.write_bytes(b"batch = '\xff'")
    assert "not valid TOML" in failure(toml)


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = PressSettings(storage="here")

    with pytest.raises(ValueError, match="frozen"):
        settings.batch = 9  # type: ignore[misc]  # what the test is about


def test_the_broker_is_found_through_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKER_URL_VARIABLE, URL)
    assert PressSettings.load(storage="x").broker().host == "broker.example"

    monkeypatch.setenv("COLLAFUSE_PRESS_BROKER_URL", "amqps://a:b@nearer.example")
    assert PressSettings.load(storage="x").broker().host == "nearer.example"


def test_the_brokers_variable_comes_before_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('storage = "x"\nbroker_url = "amqps://a:b@file.example"\n')
    assert PressSettings.load(toml).broker().host == "file.example"

    monkeypatch.setenv(BROKER_URL_VARIABLE, URL)
    assert PressSettings.load(toml).broker().host == "broker.example"


def test_no_broker_at_all_says_how_to_name_or_start_one() -> None:
    with pytest.raises(
        ConfigError, match=r"--config FILE.*COLLAFUSE_BROKER_URL.*collafuse broker node start"
    ):
        PressSettings(storage="x").broker()


def test_the_private_node_is_the_broker_when_none_is_named(
    node: NodeInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PressSettings, "node_directory", node.directory)

    assert PressSettings(storage="x").broker().port == node.ports.amqp
    assert PressSettings(storage="x", broker_url=SecretStr(URL)).broker().port == 5673


def test_a_url_is_taken_apart() -> None:
    settings = BrokerSettings.from_url("amqps://us%65r:p%40ss%2Fw@[::1]/a%2Fb")

    assert (settings.host, settings.port, settings.tls) == ("::1", 5671, True)
    assert (settings.user, settings.password.get_secret_value(), settings.vhost) == ("user", "p@ss/w", "a/b")


@pytest.mark.parametrize(("path", "vhost"), [("", "/"), ("/", "/"), ("/%2F", "/"), ("/x", "x")])
def test_the_vhost_of_a_url(path: str, vhost: str) -> None:
    settings = BrokerSettings.from_url(f"amqps://a:b@host{path}")

    assert (settings.vhost, settings.port, settings.tls) == (vhost, 5671, True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://a:s3cret@host",
        "amqp://host",
        "amqp://a@host",
        "amqp://:s3cret@host",
        "amqp://a:s3cret@",
        "amqp://a:s3cret@host:port",
        "amqp://a:s3cret@host:0",
        "amqp://a:s3cret@host:99999",
        "amqps://a:s3cret@host..example",
        f"amqps://a:s3cret@{64 * 'h'}.example",
        "amqp://a:s3cret@host/a/b",
        "amqp://a:s3cret@host/v?heartbeat=1",
        "amqp://a:s3cret@[::1",
    ],
)
def test_what_is_no_brokers_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"amqp\[s\]://") as caught:
        BrokerSettings.from_url(url)

    assert "s3cret" not in str(caught.value)


def test_a_broken_url_in_the_settings_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        PressSettings(storage="x", broker_url=SecretStr("amqp://a:s3cret@host:port")).broker()

    assert "s3cret" not in str(caught.value)


def test_secrets_are_never_shown() -> None:
    settings = BrokerSettings.from_url(URL)
    process = PressSettings(storage="x", broker_url=SecretStr(URL), token=SecretStr("s3cret"))

    for shown in (repr(settings), str(settings), repr(settings.password), repr(process), str(process)):
        assert "s3cret" not in shown
    assert str(settings) == "amqps://hospital-a_pc-1@broker.example:5673/federation"
