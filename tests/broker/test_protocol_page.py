"""The page about the protocol says what the code does: names, fields, limits and reasons."""

import re
from pathlib import Path

import pytest

from broker import codec, fields, topology
from broker.messages import MESSAGE_TYPES, Message

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
    sources = [*(ROOT / "broker").glob("*.py"), *(ROOT / "server_worker").glob("*.py")]
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
