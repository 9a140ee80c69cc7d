"""The page about the protocol says what the code does: names, fields, limits and reasons."""

import hashlib
import re
import struct
from pathlib import Path

import pytest

from broker import codec, topology
from broker.contract import fields
from broker.contract.message import Message
from broker.contract.samples import SamplesV1
from broker.contract.types import MESSAGE_TYPES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Returns the text from a heading to the next of its rank or above."""
    rank = heading.split(maxsplit=1)[0]
    found = re.search(rf"^{re.escape(heading)}.*?(?=^#{{1,{len(rank)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section {heading!r}"
    return found[0]


def codes(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize("model", MESSAGE_TYPES.values(), ids=lambda model: model.type_name)
def test_every_message_is_described_with_exactly_its_fields(model: type[Message]) -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", section(f"### `{model.type_name}`"), re.MULTILINE)

    assert set().union(*(codes(row) for row in rows)) == set(model.model_fields)


def test_no_message_is_described_that_does_not_exist() -> None:
    assert set(re.findall(r"^### `([^`]+)`", PAGE, re.MULTILINE)) == set(MESSAGE_TYPES)


def test_every_queue_is_described_with_its_kind_and_its_bound() -> None:
    rows = {row.split("`")[1]: row for row in section("## Topology").splitlines() if row.startswith("| `")}

    for queue in topology.FEDERATION.queues:
        size = int(queue.arguments["x-max-length-bytes"])
        bound = f"{size // 2**30} GiB" if size % 2**30 == 0 else f"{size // 2**20} MiB"
        assert f"{queue.arguments['x-queue-type']} queue" in rows[queue.name]
        assert bound in rows[queue.name]
        assert ("refuses" in rows[queue.name]) == (queue.arguments["x-overflow"] == "reject-publish")
    assert f"{topology.INBOX_MAX_BYTES // 2**20} MiB" in rows["inbox.<user>"]
    assert f"{topology.REPORTS_MAX_BYTES // 2**20} MiB" in rows["reports.<client>"]
    assert {queue.name for queue in topology.FEDERATION.queues} < set(rows)


def test_the_limits_are_those_of_the_code() -> None:
    limits = section("## Body")

    assert f"{fields.MAX_BODY_BYTES // 2**20} MiB" in limits
    assert f"| maps, lists in one body | {codec.MAX_MAPS}, {codec.MAX_LISTS} |" in limits
    assert f"| text | {codec.MAX_TEXT_BYTES:,} bytes |" in limits
    assert f"| samples of one request | {fields.MAX_REQUEST_SAMPLES:,} |" in limits
    assert f"| steps of one plan | {fields.MAX_PLAN_STEPS:,} |" in limits
    assert f"| `t`, `T` | {fields.MAX_T:,} |" in limits
    assert {dtype.replace("|", "\\|") for dtype in codec.DTYPES} <= codes(limits)


def test_every_reason_of_the_broker_and_the_server_is_explained() -> None:
    sources = [*(ROOT / "broker").rglob("*.py"), *(ROOT / "server_worker").glob("*.py")]
    raised = {
        reason
        for source in sources
        for reason in re.findall(r"Refused\(\s*\"([a-z0-9_]+)\"", source.read_text(encoding="utf-8"))
    }

    assert "bad_array" in raised
    assert raised <= codes(section("## Dead letters"))


def test_every_line_of_the_failure_table_names_tests_that_exist() -> None:
    table = [line for line in section("## What happens when").splitlines() if line.startswith("| ")][2:]

    assert len(table) > 20
    for line in table:
        named = [code for code in codes(line) if "::" in code]
        assert named, line
        for name in named:
            path, _, test = name.partition("::")
            source = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert f"\ndef {test}(" in source, name


def stranger(schedule_id: str, t_cut: int, x: list[float], label: int) -> bytes:
    """A samples.v1 of one 1×1×2 image, written by the page's rules alone: no msgpack, no numpy, nothing of ours."""

    def text(value: str) -> bytes:
        return bytes([0xA0 + len(value)]) + value.encode()

    def binary(value: bytes) -> bytes:
        return bytes([0xC4, len(value)]) + value

    def array(kind: str, shape: list[int], data: bytes) -> bytes:
        sides = bytes([0x90 + len(shape), *shape])
        pairs = [
            (b"nd", b"\xc3"),
            (b"type", text(kind)),
            (b"kind", binary(b"")),
            (b"shape", sides),
            (b"data", binary(data)),
        ]
        return bytes([0x80 + len(pairs)]) + b"".join(binary(key) + value for key, value in pairs)

    fields = {
        "schedule_id": text(schedule_id),
        "t_cut": b"\xcd" + struct.pack(">H", t_cut),
        "release": b"\x00",
        "x": array("<f2", [1, 1, 1, 2], struct.pack("<2e", *x)),
        "scale": b"\xc0",
        "labels": array("<i4", [1], struct.pack("<i", label)),
        "t": b"\xc0",
        "noise": b"\xc0",
    }
    return bytes([0x80 + len(fields)]) + b"".join(text(name) + value for name, value in fields.items())


def test_the_worked_example_is_what_a_stranger_would_write_and_the_server_takes() -> None:
    dump, message_id = re.findall(r"```\n(.*?)\n```", section("### A worked example"), re.DOTALL)
    shown = bytes.fromhex("".join(line[:50] for line in dump.splitlines()))

    written = stranger("0123456789abcdef", 300, [0.5, -1.0], 3)

    assert shown == written
    assert message_id == hashlib.sha256(written).hexdigest()
    message = codec.decode("samples.v1", written)
    assert isinstance(message, SamplesV1)
    assert message.x.ravel().tolist() == [0.5, -1.0]
    assert message.labels is not None
    assert message.labels.tolist() == [3]
    assert f"These {len(written)} bytes" in section("### A worked example")
