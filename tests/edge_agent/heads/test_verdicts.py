"""What is settled of a head, and what is not: a bad one is tried once in whatever file, a good one is never shut out for long."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.heads import installation, verdicts
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle
from export.bundle.keys import PrivateKey
from tests.edge_agent.heads.bundles import messages, signed_again, with_wrong_answers, write
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]


@pytest.fixture
def again(tmp_path: Path) -> Callable[[Path], Path]:
    """The same head under one signature more: another file, and the same manifest."""

    def sign(path: Path) -> Path:
        return write(tmp_path / f"again-{random.random()}.bundle", signed_again(path, PrivateKey.generate()))

    return sign


def deliver_damaged(device: HeadDevice, path: Path) -> str:
    announcement, chunks = messages(path)
    spoilt = [chunk.model_copy(update={"content": bytes(len(chunk.content))}) for chunk in chunks]
    device.take(announcement)
    for _ in range(3):
        device.take(*spoilt)
        device.updater.turn()
    assert device.state(announcement.bundle) == ("refused", "damaged")
    return announcement.bundle


def test_damage_on_the_way_is_forgiven_after_a_while(
    head_device: HeadDevice, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(1)
    bundle = deliver_damaged(head_device, path)
    head_device.deliver(path)
    assert head_device.state(bundle) == ("refused", "damaged"), "not at once"

    monkeypatch.setattr(verdicts, "DELIVERY_SECONDS", 0.0)
    head_device.install(path)

    assert head_device.row(bundle).attempts == 0, "a new delivery begins with none"


def test_damage_on_the_way_is_forgiven_by_a_reboot(head_device: HeadDevice, publish: Publish) -> None:
    path = publish(1)
    bundle = deliver_damaged(head_device, path)
    with head_device.spool.transaction() as transaction:
        transaction.execute("UPDATE heads SET since_boot = 'the one before'")

    assert head_device.install(path) == bundle


def test_a_false_announcement_does_not_end_the_hour_of_a_damaged_delivery(
    head_device: HeadDevice, publish: Publish
) -> None:
    path = publish(1)
    bundle = deliver_damaged(head_device, path)
    announcement, _ = messages(path)

    head_device.take(announcement.model_copy(update={"manifest": b"{}"}))
    head_device.deliver(path)

    assert head_device.state(bundle) == ("refused", "damaged")
    assert head_device.row(bundle).attempts == 3


def test_a_false_announcement_takes_nothing_of_what_is_on_its_way(
    head_device: HeadDevice, publish: Publish
) -> None:
    announcement, chunks = messages(publish(1))
    head_device.take(announcement, chunks[0])

    head_device.take(announcement.model_copy(update={"manifest": b"{}"}))
    otherwise_cut = {"chunk_bytes": announcement.chunk_bytes * 2, "manifest": b"{}"}
    head_device.take(announcement.model_copy(update=otherwise_cut), *chunks[1:])

    head_device.turn_until(announcement.bundle, "trial")


def test_damage_shuts_out_no_other_file_of_the_same_head(
    head_device: HeadDevice, publish: Publish, again: Callable[[Path], Path]
) -> None:
    path = publish(1)
    deliver_damaged(head_device, path)

    head_device.install(again(path))


def test_another_file_under_a_good_heads_name_does_not_shut_the_good_one_out(
    head_device: HeadDevice, publish: Publish
) -> None:
    good, other = publish(1), publish(3, key=None)
    vouched, _ = messages(good)
    unsigned, chunks = messages(other)
    head_device.take(
        unsigned.model_copy(update={"manifest": vouched.manifest, "signatures": vouched.signatures}), *chunks
    )
    head_device.turn_until(unsigned.bundle, "failed")

    head_device.install(good)


def test_a_good_heads_file_announced_as_another_head_does_not_shut_it_out(
    head_device: HeadDevice, publish: Publish
) -> None:
    good = publish(1)
    announcement, chunks = messages(good)
    vouched, _ = messages(publish(3))
    head_device.take(
        announcement.model_copy(update={"manifest": vouched.manifest, "signatures": vouched.signatures}),
        *chunks,
    )
    head_device.turn_until(announcement.bundle, "failed")
    assert head_device.state(announcement.bundle) == ("failed", "not_as_announced")

    head_device.install(good)


def test_a_head_that_failed_is_not_tried_again_under_another_signature(
    head_device: HeadDevice, publish: Publish, plain: Bundle, again: Callable[[Path], Path]
) -> None:
    live = head_device.install(publish(1))
    path = publish(2, with_wrong_answers(plain))
    bad = head_device.deliver(path)
    head_device.turn_until(bad, "failed")

    other = head_device.deliver(again(path))

    assert other != bad
    assert head_device.state(other) == ("refused", "given_up_before")
    detail = head_device.row(other).detail
    assert detail is not None
    assert bad[:12] in detail
    assert "wrong_answers" in detail
    assert head_device.files == {live}
    head_device.install(publish(3))


def test_a_head_that_was_rolled_back_is_not_taken_up_under_another_signature(
    head_device: HeadDevice, publish: Publish, again: Callable[[Path], Path]
) -> None:
    head_device.install(publish(1))
    path = publish(2)
    head_device.turn_until(head_device.deliver(path), "trial")
    head_device.updater.turn()
    head_device.slot.note_failure("it made no images")

    assert head_device.state(head_device.deliver(again(path))) == ("refused", "given_up_before")


def test_a_verdict_is_not_forgotten_over_a_false_announcement(
    head_device: HeadDevice, publish: Publish, plain: Bundle
) -> None:
    path = publish(2, with_wrong_answers(plain))
    bad = head_device.deliver(path)
    head_device.turn_until(bad, "failed")

    announcement, _ = messages(path)
    head_device.take(announcement.model_copy(update={"manifest": b"{}"}))

    assert head_device.state(bad) == ("failed", "wrong_answers")


def test_the_operators_hand_undoes_a_verdict(
    head_device: HeadDevice, publish: Publish, again: Callable[[Path], Path]
) -> None:
    path = publish(2)
    head_device.install(path)
    installation.roll_back(head_device.spool)
    other = again(path)
    assert head_device.state(head_device.deliver(other)) == ("refused", "given_up_before")

    row = installation.install(
        head_device.spool, head_device.directory, head_device.judge, other, allow_older=False
    )
    head_device.turn_until(row.bundle, "trial")
    head_device.updater.turn()
    assert head_device.slot.note_failure("it made no images")
    installation.install(head_device.spool, head_device.directory, head_device.judge, path, allow_older=False)

    head_device.turn_until(messages(path)[0].bundle, "trial")


@pytest.mark.parametrize("spoil", ["missing", "damaged"])
def test_a_head_whose_file_is_lost_on_trial_may_be_sent_again(
    head_device: HeadDevice, state: StateDirectory, publish: Publish, spoil: str
) -> None:
    path = publish(1)
    bundle = head_device.deliver(path)
    head_device.turn_until(bundle, "trial")
    head_device.updater.close()
    file = head_device.directory / f"{bundle}.bundle"
    if spoil == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1])

    device = head_device.again()
    assert device.state(bundle) == ("rolled_back", f"file_{spoil}")

    device.install(path)


def test_announcing_the_head_in_reserve_leaves_it_there(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    path = publish(1)
    reserve = head_device.install(path)
    live = head_device.install(publish(2))

    head_device.deliver(path)

    assert head_device.state(reserve) == ("previous", None)
    installation.roll_back(head_device.spool)
    head_device.updater.turn()
    assert (head_device.slot.delivered, head_device.state(live)[0]) == (reserve, "rolled_back")
