"""What an operator writes on the command line stands in the device's file, letter by letter, and nothing else does."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import device_settings
from broker.errors import ConfigError
from broker.node.local_node import NodeInfo
from edge_agent.settings import EdgeSettings
from tests.broker.test_cli import output

KEY = "ed25519:" + "A" * 43 + "="
OTHER_KEY = "ed25519:" + "B" * 42 + "A="


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("32", 32),
        ("0.5", 0.5),
        ("1e-05", 1e-05),
        ("true", True),
        ('["02:00-05:00", "13:00-14:00"]', ["02:00-05:00", "13:00-14:00"]),
        ("[1, 2]", [1, 2]),
        ('"quoted"', "quoted"),
        ("02:00-05:00", "02:00-05:00"),
        ("linear", "linear"),
        ("1,2,3", "1,2,3"),
        ("", ""),
        ("inf", "inf"),
        ("2026-01-02", "2026-01-02"),
        ("{a = 1}", "{a = 1}"),
        ('1\nbroker_url = "amqp://elsewhere"', '1\nbroker_url = "amqp://elsewhere"'),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_a_value_is_toml_where_it_is_toml_and_text_where_it_is_not(text: str, value: object) -> None:
    found = device_settings.parse([f"name={text}"])

    assert found == {"name": value}
    assert type(found["name"]) is type(value)
    assert tomllib.loads("\n".join(device_settings.lines(found))) == found


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        st.recursive(
            st.one_of(
                st.text(st.characters(exclude_categories=["Cs"])),
                st.booleans(),
                st.integers(-(2**62), 2**62),
                st.floats(allow_nan=False, allow_infinity=False),
            ),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_whatever_is_written_reads_back_as_it_was(settings: dict[str, Any]) -> None:
    assert tomllib.loads("\n".join(device_settings.lines(settings))) == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pool_images"], "KEY=VALUE"),
        (["Pool=1"], "KEY=VALUE"),
        (["=1"], "KEY=VALUE"),
        (["a b=1"], "KEY=VALUE"),
        (["broker_url=amqp://elsewhere"], "enrolment itself writes"),
        (["client=other"], "enrolment itself writes"),
        (["threads=1", "threads=2"], "given twice"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        device_settings.parse(words)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="no text"):
        device_settings.lines(device_settings.parse(["state=\udcff"]))


def test_keys_come_from_texts_and_from_files(tmp_path: Path) -> None:
    file = tmp_path / "owner.pub"
    file.write_text(f"# of 2026\n{OTHER_KEY}  # the spare\n\n{KEY}\n")

    assert device_settings.head_keys([KEY]) == [KEY]
    assert device_settings.head_keys([KEY, str(file)]) == [KEY, OTHER_KEY]
    assert device_settings.head_keys([f"{KEY},{OTHER_KEY}"]) == [KEY, OTHER_KEY]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "give a key .* or its file"),
        (b"", "not nothing"),
        (b"ed25519:short", "not 'ed25519:short'"),
        (b"-----BEGIN PRIVATE KEY-----", "collafuse export keygen"),
        (b"\xff\xfe", "is no text"),
        (b"#" * 70_000, "no list of keys"),
    ],
)
def test_what_is_no_key_is_refused_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "owner.pub"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        device_settings.head_keys([str(file)])
    assert "\n" not in str(caught.value)


def test_one_file_carries_all_that_a_device_is_told_and_a_renewal_keeps_it(
    node: NodeInfo, tmp_path: Path
) -> None:
    out = tmp_path / "device.toml"
    enroll = ("enroll", "lab-s", "pc-1", "--dir", node.directory, "--out", out)
    chosen = ("cut_ratio=0.6", "pool_images=32", "windows=02:00-05:00,22:00-23:00", "epsilon_budget=9.5")

    output(*enroll, *(word for text in chosen for word in ("--set", text)), "--head-keys", KEY)
    first = EdgeSettings.load(out)
    output(*enroll, "--renew", "--set", "cut_ratio=0.7")
    second = EdgeSettings.load(out)

    assert (first.cut_ratio, first.pool_images, first.epsilon_budget) == (0.6, 32, 9.5)
    assert first.windows == ("02:00-05:00", "22:00-23:00")
    assert first.head_keys == second.head_keys == (KEY,)
    assert (second.cut_ratio, second.pool_images) == (0.7, 32)
    assert first.broker_url != second.broker_url


def test_a_setting_that_is_refused_enrols_nobody(node: NodeInfo, tmp_path: Path) -> None:
    enroll = ("enroll", "lab-s", "pc-2", "--dir", node.directory, "--out", tmp_path / "x.toml")
    for wrong in (("--set", "nonsense"), ("--head-keys", "nowhere"), ("--set", "state=\udcff")):
        with pytest.raises(ConfigError):
            output(*enroll, *wrong)
    with pytest.raises(ConfigError, match="given twice"):
        output(*enroll, "--set", "head_keys=x", "--head-keys", KEY)

    output(*enroll)


def test_an_agent_refuses_a_setting_that_it_does_not_know(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "device.toml"
    output("enroll", "lab-s", "pc-3", "--dir", node.directory, "--out", out, "--set", "pool_image=3")

    with pytest.raises(ConfigError, match=r"unknown key 'pool_image'; did you mean pool_images\?"):
        EdgeSettings.load(out)


def test_a_renewal_over_a_file_that_cannot_be_read_is_refused(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "device.toml"
    enroll = ("enroll", "lab-s", "pc-4", "--dir", node.directory, "--out", out)
    output(*enroll)
    out.write_text("cut_ratio = = 3")

    with pytest.raises(ConfigError, match="would lose its settings"):
        output(*enroll, "--renew")
