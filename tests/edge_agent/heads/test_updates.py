"""Heads that come over the broker: received, judged, tried, kept or given up; nothing of it ends the device."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.contract.heads import ChunkV1
from edge_agent import clock
from edge_agent.errors import HeadError
from edge_agent.heads import arrivals, examiner, known_time
from edge_agent.heads.golden_check import check
from edge_agent.heads.trial import Terms
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle
from export.bundle.keys import KeyHistory, KeyList, PrivateKey, SignedKeyList
from tests.edge_agent.heads.bundles import messages, with_nan_weights, with_trouble, with_wrong_answers
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]
TERMS = Terms(images=2, seconds=1e6)


def test_a_head_in_many_pieces_is_received_tried_and_kept(head_device: HeadDevice, publish: Publish) -> None:
    announcement, chunks = messages(publish(1))
    assert len(chunks) > 20
    random.Random(3).shuffle(chunks)

    head_device.take(announcement, *chunks, *chunks[:5])
    head_device.turn_until(announcement.bundle, "trial")
    head_device.updater.turn()

    assert head_device.slot.delivered == announcement.bundle
    head_device.work(2)
    head_device.turn_until(announcement.bundle, "live")
    assert head_device.files == {announcement.bundle}
    assert head_device.spool.rows("SELECT count(*) FROM head_chunks")[0][0] == 0


def test_what_is_missing_is_told_and_enough(head_device: HeadDevice, publish: Publish) -> None:
    announcement, chunks = messages(publish(1))
    lost = {0, 7, 8, 20}

    head_device.take(announcement, *(chunk for chunk in chunks if chunk.index not in lost))
    head_device.updater.turn()

    assert head_device.missing() == (0, 1, 7, 9, 20, 21)
    head_device.take(*(chunk for chunk in chunks if chunk.index in lost))
    head_device.turn_until(announcement.bundle, "trial")


def test_pieces_survive_a_restart(head_device: HeadDevice, publish: Publish) -> None:
    announcement, chunks = messages(publish(1))
    head_device.take(announcement, *chunks[:12])

    restarted = head_device.killed()

    assert restarted.missing() == (12, len(chunks))
    restarted.take(*chunks[12:])
    restarted.turn_until(announcement.bundle, "trial")


def test_the_head_before_stays_in_reserve_and_older_ones_go(
    head_device: HeadDevice, publish: Publish
) -> None:
    first, second, third = (head_device.install(publish(counter)) for counter in (1, 2, 3))

    assert [head_device.row(bundle).state for bundle in (first, second, third)] == [
        "retired",
        "previous",
        "live",
    ]
    assert head_device.files == {second, third}


REFUSED: dict[str, dict[str, Any]] = {
    "unsigned": {"key": None},
    "counter_older": {"counter": 1},
    "counter_equal": {"counter": 2, "minimum_agent": "0.0.1"},
    "other_client": {"client": "clinic"},
    "other_name": {"name": "lungs"},
    "expired": {"issued_at": 1, "expires_at": 1000},
    "agent_too_old": {"minimum_agent": "99.0"},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_head_that_must_not_be_installed_is_refused_before_a_piece_of_it_is_kept(
    head_device: HeadDevice, publish: Publish, reason: str
) -> None:
    live = head_device.install(publish(2))
    with head_device.spool.transaction() as transaction:
        known_time.note(transaction, time.time(), clock.now(), time.time())

    bundle = head_device.deliver(publish(**({"counter": 9} | REFUSED[reason])))

    assert head_device.state(bundle) == ("refused", reason)
    assert head_device.spool.rows("SELECT count(*) FROM head_chunks")[0][0] == 0
    head_device.updater.turn()
    assert head_device.slot.delivered == live


def test_a_signature_by_a_stranger_or_over_something_else_is_refused(
    head_device: HeadDevice, publish: Publish
) -> None:
    stranger = head_device.deliver(publish(1, key=PrivateKey.generate()))
    announcement, _ = messages(publish(2))
    forged = announcement.model_copy(
        update={"manifest": announcement.manifest.replace(b'"counter":2', b'"counter":7'), "bundle": "a" * 64}
    )
    head_device.take(forged)

    assert head_device.state(stranger) == ("refused", "unsigned")
    assert head_device.state("a" * 64) == ("refused", "signature_false")


def test_without_keys_nothing_that_is_delivered_is_taken(
    state: StateDirectory, spool: Spool, publish: Publish
) -> None:
    device = HeadDevice(state, spool, keys=(), terms=TERMS)

    assert device.state(device.deliver(publish(1))) == ("refused", "unsigned")


def test_a_manifest_that_makes_no_sense_is_refused(head_device: HeadDevice, publish: Publish) -> None:
    announcement, _ = messages(publish(1))

    head_device.take(announcement.model_copy(update={"manifest": b"{}", "bundle": "b" * 64}))
    head_device.take(announcement.model_copy(update={"signatures": b"\xff", "bundle": "c" * 64}))

    assert head_device.state("b" * 64)[0] == "refused"
    assert head_device.state("c" * 64) == ("refused", "malformed")


def test_a_head_larger_than_the_quota_is_refused(
    state: StateDirectory, spool: Spool, publish: Publish, key: PrivateKey
) -> None:
    device = HeadDevice(state, spool, keys=(key.public.text,), terms=TERMS, max_bytes=2**20)

    assert device.state(device.deliver(publish(1))) == ("refused", "no_room")


def test_on_a_metered_link_no_head_is_taken_and_a_later_announcement_is(
    head_device: HeadDevice, state: StateDirectory, publish: Publish, key: PrivateKey
) -> None:
    live = head_device.install(publish(1))
    begun, coming = messages(publish(2))
    head_device.take(begun, *coming[:9])
    metered = HeadDevice(state, head_device.spool, keys=(key.public.text,), terms=TERMS, metered=True)

    metered.take(*coming[9:])
    assert metered.missing() == (9, len(coming)), "what was begun waits"
    assert metered.state(metered.deliver(publish(3))) == ("refused", "metered")
    assert metered.state(metered.deliver(publish(3, key=None))) == ("refused", "unsigned")
    metered.take(begun)

    assert metered.state(begun.bundle) == ("refused", "metered")
    assert metered.spool.rows("SELECT count(*) FROM head_chunks")[0][0] == 0
    assert metered.state(live) == ("live", None)
    metered.updater.close()
    free = HeadDevice(state, head_device.spool, keys=(key.public.text,), terms=TERMS)
    free.take(begun, *coming)
    free.turn_until(begun.bundle, "trial")


def test_of_two_heads_on_their_way_the_newer_is_received(head_device: HeadDevice, publish: Publish) -> None:
    older, older_chunks = messages(publish(1))
    newer, newer_chunks = messages(publish(2))

    head_device.take(older, *older_chunks[:9], newer, *older_chunks[9:], older, *newer_chunks)

    assert head_device.state(older.bundle) == ("refused", "superseded")
    head_device.turn_until(newer.bundle, "trial")


def test_a_file_that_is_not_what_was_announced_is_received_three_times_and_no_more_for_now(
    head_device: HeadDevice, publish: Publish
) -> None:
    announcement, chunks = messages(publish(1))
    spoilt = chunks[3].model_copy(update={"content": bytes(len(chunks[3].content))})

    for attempt in range(1, 4):
        head_device.take(*([announcement] if attempt == 1 else []), *chunks[:3], spoilt, *chunks[4:])
        head_device.updater.turn()
        assert head_device.row(announcement.bundle).attempts == attempt

    assert head_device.state(announcement.bundle) == ("refused", "damaged")
    head_device.take(announcement, *chunks)
    assert head_device.state(announcement.bundle) == ("refused", "damaged"), "not at once"
    head_device.install(publish(2))


def test_a_damaged_transfer_is_made_good(head_device: HeadDevice, publish: Publish) -> None:
    announcement, chunks = messages(publish(1))
    spoilt = chunks[3].model_copy(update={"content": bytes(len(chunks[3].content))})
    head_device.take(announcement, *chunks[:3], spoilt, *chunks[4:])
    head_device.updater.turn()
    assert head_device.missing() == (0, len(chunks))

    head_device.take(announcement, *chunks)

    head_device.turn_until(announcement.bundle, "trial")


@pytest.mark.parametrize("change", [{"index": 400}, {"content": b"short"}, {"bundle": "d" * 64}])
def test_pieces_that_do_not_belong_are_dropped_and_counted(
    head_device: HeadDevice, publish: Publish, change: dict[str, object]
) -> None:
    announcement, chunks = messages(publish(1))

    head_device.take(announcement, ChunkV1(**(dict(chunks[0]) | change)))

    counted = dict(tuple(row) for row in head_device.spool.rows("SELECT name, value FROM counters"))
    assert counted == {"head_announcements": 1, "head_chunks_declined": 1}


def test_another_bundle_under_a_good_announcement_never_runs(
    head_device: HeadDevice, publish: Publish
) -> None:
    good, _ = messages(publish(1))
    unsigned, chunks = messages(publish(3, key=None))

    head_device.take(
        unsigned.model_copy(update={"manifest": good.manifest, "signatures": good.signatures}), *chunks
    )
    head_device.turn_until(unsigned.bundle, "failed")

    assert head_device.state(unsigned.bundle) == ("failed", "not_as_announced")
    assert head_device.slot.delivered is None


@pytest.mark.parametrize("spoil", [with_wrong_answers, with_nan_weights])
def test_a_head_that_answers_wrongly_on_this_device_is_never_taken_up(
    head_device: HeadDevice, publish: Publish, plain: Bundle, spoil: Callable[[Bundle], Bundle]
) -> None:
    live = head_device.install(publish(1))

    bundle = head_device.deliver(publish(2, spoil(plain)))
    head_device.turn_until(bundle, "failed")

    assert head_device.state(bundle) == ("failed", "wrong_answers")
    assert head_device.slot.delivered == live
    assert head_device.files == {live}
    report = arrivals.report(head_device.spool)
    assert report is not None
    assert (report.state, report.reason) == ("failed", "wrong_answers")


def test_a_head_that_fails_at_its_work_is_given_up_for_the_one_before(
    head_device: HeadDevice, publish: Publish
) -> None:
    live = head_device.install(publish(1))
    bundle = head_device.deliver(publish(2))
    head_device.turn_until(bundle, "trial")
    head_device.updater.turn()
    assert head_device.slot.delivered == bundle

    assert head_device.slot.note_failure("it made no images")

    assert head_device.state(bundle) == ("rolled_back", "failed_at_work")
    assert head_device.slot.delivered == live
    assert not head_device.slot.note_failure("a live head's failure is the job's")


def test_a_head_with_which_two_agents_died_is_given_up_by_the_third(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    live = head_device.install(publish(1))
    bundle = head_device.deliver(publish(2))
    head_device.turn_until(bundle, "trial")
    head_device.updater.turn()

    second = head_device.killed()
    assert second.slot.delivered == bundle
    third = second.killed()

    assert third.slot.delivered == live
    assert third.state(bundle) == ("rolled_back", "crashed")


def test_restarts_in_order_do_not_count_against_a_head(head_device: HeadDevice, publish: Publish) -> None:
    head_device.install(publish(1))
    bundle = head_device.deliver(publish(2))
    head_device.turn_until(bundle, "trial")
    head_device.updater.turn()
    device = head_device
    for _ in range(4):
        device = device.again()
        assert device.slot.delivered == bundle
    device.work(2)
    device.turn_until(bundle, "live")


def test_a_trial_goes_on_over_restarts_and_time_alone_ends_it(
    state: StateDirectory, spool: Spool, publish: Publish, key: PrivateKey
) -> None:
    patient = HeadDevice(state, spool, keys=(key.public.text,), terms=Terms(images=10**6, seconds=0.3))

    bundle = patient.deliver(publish(1))

    patient.turn_until(bundle, "live")
    assert patient.row(bundle).images == 0


def test_a_check_with_which_the_device_went_down_twice_is_not_made_again(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    bundle = head_device.deliver(publish(1))
    for _ in range(2):
        head_device.updater.turn()
        assert head_device.row(bundle).state == "staged"
        head_device = head_device.killed()

    head_device.turn_until(bundle, "failed")

    assert head_device.state(bundle) == ("failed", "check_crashed")


def test_a_check_that_hangs_is_ended(
    state: StateDirectory,
    spool: Spool,
    publish: Publish,
    key: PrivateKey,
    plain: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    device = HeadDevice(state, spool, keys=(key.public.text,), terms=TERMS, check_seconds=10.0)

    bundle = device.deliver(publish(1, with_trouble(plain, "hang", images=3)))
    device.turn_until(bundle, "failed")

    assert device.state(bundle) == ("failed", "check_timed_out")


def test_a_check_that_does_not_come_as_far_as_the_head_says_nothing_of_it(
    state: StateDirectory, spool: Spool, publish: Publish, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    path = publish(1)
    hurried = HeadDevice(state, spool, keys=(key.public.text,), terms=TERMS, check_seconds=0.0)
    bundle = hurried.deliver(path)
    hurried.turn_until(bundle, "failed")
    assert hurried.state(bundle) == ("failed", "not_read")

    with spool.transaction() as transaction:
        transaction.execute("UPDATE heads SET since_boot = 'the one before'")
    hurried.again().install(path)


def test_the_settings_head_serves_until_a_newer_one_is_delivered(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    own = publish(5)
    device = head_device.again(own=own)
    assert device.loaded_counter == 5

    assert device.state(device.deliver(publish(4))) == ("refused", "counter_older")
    newer = device.install(publish(6))
    assert device.slot.delivered == newer
    assert device.loaded_counter == 6

    own.write_bytes(publish(8).read_bytes())
    device.slot.refresh()
    device.updater.turn()
    assert device.loaded_counter == 8


def test_an_unsigned_settings_head_is_refused_where_keys_are_set_and_a_signed_one_is_not(
    state: StateDirectory, spool: Spool, publish: Publish, key: PrivateKey
) -> None:
    unsigned = HeadDevice(state, spool, keys=(key.public.text,), terms=TERMS, own=publish(1, key=None))
    without_keys = HeadDevice(state, spool, keys=(), terms=TERMS, own=publish(1, key=None))

    assert unsigned.slot.loaded is None
    assert "is not used" in str(unsigned.slot.error)
    assert without_keys.slot.loaded is not None


def test_a_new_list_of_keys_is_followed_and_remembered(
    head_device: HeadDevice, state: StateDirectory, publish: Publish, key: PrivateKey
) -> None:
    new_key = PrivateKey.generate()
    content = KeyList(version=1, keys=(new_key.public.text,), threshold=1)
    history = KeyHistory(lists=(SignedKeyList(content=content).signed_by(key).signed_by(new_key),))
    announcement, chunks = messages(publish(1, key=new_key))

    head_device.take(announcement.model_copy(update={"key_list": history.to_bytes()}), *chunks)
    head_device.turn_until(announcement.bundle, "trial")
    restarted = head_device.again()

    assert restarted.state(restarted.deliver(publish(2))) == ("refused", "unsigned"), "the old key is void"
    assert restarted.state(restarted.deliver(publish(3, key=new_key)))[0] == "receiving"


@pytest.mark.parametrize("lost", ["live", "previous"])
def test_a_file_that_is_gone_or_damaged_leaves_the_other_head_at_work(
    head_device: HeadDevice, publish: Publish, lost: str
) -> None:
    bundles = {"previous": head_device.install(publish(1)), "live": head_device.install(publish(2))}
    kept = "previous" if lost == "live" else "live"

    path = head_device.directory / f"{bundles[lost]}.bundle"
    path.write_bytes(path.read_bytes()[:-1])
    assert head_device.again().slot.delivered == bundles[kept]
    path.unlink(missing_ok=True)
    assert head_device.again().slot.delivered == bundles[kept]


def test_heads_of_which_a_new_spool_knows_nothing_are_taken_in_again(
    head_device: HeadDevice, publish: Publish
) -> None:
    first, second = head_device.install(publish(1)), head_device.install(publish(2))
    (head_device.directory / f"{'e' * 64}.bundle").write_bytes(b"not a bundle")
    with head_device.spool.transaction() as transaction:
        transaction.execute("DELETE FROM heads")

    device = head_device.killed()

    assert device.slot.delivered == first
    device.turn_until(second, "trial")
    assert device.files == {first, second}


def test_an_announcement_made_again_is_answered_and_changes_nothing(
    head_device: HeadDevice, publish: Publish
) -> None:
    path = publish(1)
    first = head_device.install(path)
    head_device.deliver(publish(2, key=None))

    head_device.take(messages(path)[0])

    report = arrivals.report(head_device.spool)
    assert report is not None
    assert (report.bundle, report.state) == (first, "installed")


def test_a_key_that_is_none_is_said_in_one_line(state: StateDirectory, spool: Spool) -> None:
    with pytest.raises(HeadError, match="head_keys: 'ed25519:x' is not a public key"):
        HeadDevice(state, spool, keys=("ed25519:x",), terms=TERMS)


def test_a_head_announced_in_other_pieces_is_received_anew(head_device: HeadDevice, publish: Publish) -> None:
    path = publish(1)
    head_device.take(messages(path, chunk_bytes=2**17)[0])

    head_device.deliver(path)

    head_device.turn_until(messages(path)[0].bundle, "staged")


@pytest.mark.parametrize("images", [1, 3, 16])
def test_a_head_that_fails_with_some_number_of_images_is_never_taken_up(
    head_device: HeadDevice, publish: Publish, plain: Bundle, images: int
) -> None:
    bundle = head_device.deliver(publish(1, with_trouble(plain, "error", images)))

    head_device.turn_until(bundle, "failed", "trial")

    assert head_device.state(bundle) == ("failed", "run_failed")


def test_where_falling_back_is_allowed_a_new_head_is_tried_so_too(publish: Publish) -> None:
    path = publish(1)

    assert check(path, None, "cuda", 1)[0] == "provider_missing"
    assert check(path, None, "cuda", 1, "cpu")[0] == ""


def test_a_live_head_that_ends_every_agent_gives_way_to_the_one_before(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    head_device.install(publish(1))
    newer = head_device.install(publish(2))
    head_device.updater.close()
    device = head_device

    for _ in range(3):  # the agent dies each time, before an image is made
        device = device.killed()
        assert (device.state(newer)[0], device.loaded_counter) == ("live", 2)
    device = device.killed()

    assert (device.state(newer), device.loaded_counter) == (("rolled_back", "crashed"), 1)


def test_an_image_proves_a_live_head_and_a_reboot_says_nothing_against_it(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    head_device.install(publish(1))
    newer = head_device.install(publish(2))
    head_device.updater.close()
    device = head_device

    for _ in range(5):
        device = device.killed()
        device.work(1)
        device.updater.turn()
    assert (device.state(newer)[0], device.row(newer).starts) == ("live", 0)
    for _ in range(5):
        device = device.killed()
        with device.spool.transaction() as transaction:
            transaction.execute("UPDATE heads SET start_boot = 'the one before' WHERE starts > 0")

    assert (device.state(newer)[0], device.loaded_counter) == ("live", 2)


def test_a_live_head_whose_file_went_bad_may_be_sent_again(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    head_device.install(publish(1))
    path = publish(2)
    newer = head_device.install(path)
    file = head_device.directory / f"{newer}.bundle"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)

    device = head_device.again()
    assert (device.state(newer), device.loaded_counter) == (("rolled_back", "file_damaged"), 1)
    device.install(path)

    assert device.loaded_counter == 2
