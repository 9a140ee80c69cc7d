import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.errors import OutboxFull
from edge_agent.link import outbox
from edge_agent.link.outbox import PRIORITY, Kind
from edge_agent.storage.spool import Spool
from tests.edge_agent import rows

QUOTA_BYTES = 1000


def put(spool: Spool, message_id: str, kind: Kind = "samples", size_bytes: int = 100) -> None:
    rows.put(spool, message_id, b"x" * size_bytes, kind=kind, max_bytes=QUOTA_BYTES)


def next_ids(spool: Spool, besides: tuple[int, ...] = (), limit: int = 100) -> list[str]:
    return [
        entry.message_id
        for entry in outbox.next_entries(spool, besides=besides, limit=limit, limit_bytes=2**20)
    ]


def test_interactive_messages_go_first_and_else_the_oldest(spool: Spool) -> None:
    put(spool, "batch-1")
    put(spool, "batch-2")
    put(spool, "request", kind="denoise")
    put(spool, "pool", kind="prefetch")

    assert next_ids(spool) == ["request", "pool", "batch-1", "batch-2"]


def test_what_is_in_flight_is_not_offered_again(spool: Spool) -> None:
    for number in range(4):
        put(spool, f"batch-{number}")
    in_flight = tuple(
        entry.sequence for entry in outbox.next_entries(spool, besides=(), limit=2, limit_bytes=2**20)
    )

    assert next_ids(spool, besides=in_flight, limit=1) == ["batch-2"]


def test_no_more_is_offered_than_may_be_held_in_memory(spool: Spool) -> None:
    for number, size_bytes in enumerate((300, 100, 100)):
        put(spool, f"batch-{number}", size_bytes=size_bytes)

    def offered(limit_bytes: int) -> list[str]:
        entries = outbox.next_entries(spool, besides=(), limit=100, limit_bytes=limit_bytes)
        return [entry.message_id for entry in entries]

    assert offered(400) == ["batch-0", "batch-1"]
    assert offered(399) == ["batch-0"]
    assert offered(10) == ["batch-0"], "one that is larger than the limit goes alone"


def test_a_full_outbox_refuses_the_new_and_keeps_the_old(spool: Spool) -> None:
    for number in range(9):
        put(spool, f"batch-{number}")

    with pytest.raises(
        OutboxFull, match=r"900 bytes wait.*101 more would pass the quota of 1,000; connect the device"
    ):
        put(spool, "too-much", size_bytes=101)

    assert next_ids(spool) == [f"batch-{number}" for number in range(9)]
    put(spool, "fits", size_bytes=100)
    with pytest.raises(OutboxFull, match="10 messages of 1,000 bytes wait"):
        outbox.check_room(spool, QUOTA_BYTES)


def test_a_failed_message_stays_with_its_reason(spool: Spool) -> None:
    put(spool, "batch")
    entry = outbox.next_entries(spool, besides=(), limit=1, limit_bytes=2**20)[0]

    outbox.failed(spool, [(entry.sequence, "the queue is full")])

    assert next_ids(spool) == ["batch"]
    row = spool.rows("SELECT attempts, last_error FROM outbox")[0]
    assert (row["attempts"], row["last_error"]) == (1, "the queue is full")


class OutboxMachine(RuleBasedStateMachine):
    """Whatever is done, in whatever order and with whatever restarts: an accepted message is there until it is confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "spool.sqlite3"
        self.spool = Spool(self.path)
        self.model: list[tuple[str, Kind, int]] = []
        self.made = 0

    @rule(kind=st.sampled_from(sorted(PRIORITY)), size_bytes=st.integers(1, 400))
    def accept(self, kind: Kind, size_bytes: int) -> None:
        self.made += 1
        name = f"message-{self.made}"
        fits = sum(size for *_, size in self.model) + size_bytes <= QUOTA_BYTES
        try:
            put(self.spool, name, kind, size_bytes)
        except OutboxFull:
            assert not fits
        else:
            assert fits
            self.model.append((name, kind, size_bytes))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def confirm_some(self, data: st.DataObject) -> None:
        entries = outbox.next_entries(self.spool, besides=(), limit=100, limit_bytes=2**20)
        chosen = data.draw(st.lists(st.sampled_from(entries), unique_by=lambda entry: entry.sequence))
        outbox.confirmed(self.spool, [entry.sequence for entry in chosen])
        gone = {entry.message_id for entry in chosen}
        self.model = [known for known in self.model if known[0] not in gone]

    @precondition(lambda self: self.model)
    @rule()
    def fail_all(self) -> None:
        entries = outbox.next_entries(self.spool, besides=(), limit=100, limit_bytes=2**20)
        outbox.failed(self.spool, [(entry.sequence, "lost") for entry in entries])

    @rule(verify=st.booleans())
    def restart(self, verify: bool) -> None:
        self.spool.close()
        self.spool = Spool(self.path, verify=verify)

    @rule()
    def give_back(self) -> None:
        self.spool.give_back_disk()

    @invariant()
    def exactly_the_accepted_ones_wait(self) -> None:
        expected = [name for name, *_ in sorted(self.model, key=lambda known: PRIORITY[known[1]])]
        assert next_ids(self.spool) == expected
        assert outbox.load(self.spool).size_bytes == sum(size for *_, size in self.model)

    def teardown(self) -> None:
        self.spool.close()
        self.directory.cleanup()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = hypothesis_settings(max_examples=20, stateful_step_count=15, deadline=None)
