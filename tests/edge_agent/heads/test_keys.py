"""Keys that change, are stolen and expire: what a device believes then, and that it keeps a head to work with."""

import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.contract.heads import BundleV1
from broker.settings import BrokerSettings
from broker.topology import device_key
from edge_agent import clock
from edge_agent.heads import installation, known_time, store
from edge_agent.heads.trial import Terms
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.keys import KeyHistory, KeyList, PrivateKey, SignedKeyList
from export.delivery.parcel import wrap
from export.delivery.post import opened
from tests.conftest import wait_until
from tests.edge_agent.agents import Process
from tests.edge_agent.conftest import Device
from tests.edge_agent.heads.bundles import messages
from tests.edge_agent.heads.deliveries import send, states, status
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]
TERMS = Terms(images=2, seconds=1e6)
SECOND, THIRD = PrivateKey.generate(), PrivateKey.generate()


def listed(
    version: int, key: PrivateKey, *signers: PrivateKey, expires_at: int | None = None
) -> SignedKeyList:
    """A list of one key, signed by it and by others."""
    signed = SignedKeyList(
        content=KeyList(version=version, keys=(key.public.text,), threshold=1, expires_at=expires_at)
    )
    for signer in {key, *signers}:
        signed = signed.signed_by(signer)
    return signed


def announcing(path: Path, *lists: SignedKeyList) -> BundleV1:
    return messages(path)[0].model_copy(update={"key_list": KeyHistory(lists=lists).to_bytes()})


def test_a_history_sent_without_its_beginning_brings_no_revoked_key_back(
    head_device: HeadDevice, state: StateDirectory, publish: Publish, key: PrivateKey
) -> None:
    first, second = listed(1, SECOND, key), listed(2, THIRD, SECOND)
    head_device.take(announcing(publish(2, key=SECOND), first))

    shortened = announcing(publish(3, key=THIRD), second)
    head_device.take(shortened)

    assert head_device.state(shortened.bundle)[0] == "receiving"
    for device in (head_device, head_device.again()):
        assert device.state(device.deliver(publish(9, key=key))) == ("refused", "unsigned")


def test_damaged_keys_refuse_heads_and_other_settings_begin_anew(
    head_device: HeadDevice, state: StateDirectory, publish: Publish, key: PrivateKey
) -> None:
    head_device.take(announcing(publish(2, key=SECOND), listed(1, SECOND, key)))
    with head_device.spool.transaction() as transaction:
        transaction.execute("UPDATE head_keys SET history = x'00'")

    assert head_device.state(head_device.deliver(publish(3, key=key))) == ("refused", "malformed")

    device = head_device.again(keys=(key.public.text, THIRD.public.text))
    assert device.state(device.deliver(publish(4, key=key)))[0] == "receiving"


@pytest.mark.parametrize("expires_at", [None, 1_700_000_000])
def test_a_change_of_keys_and_an_expired_list_leave_the_settings_head_at_work(
    state: StateDirectory, spool: Spool, publish: Publish, key: PrivateKey, expires_at: int | None
) -> None:
    own = publish(1)
    device = HeadDevice(state, spool, keys=(key.public.text,), terms=TERMS, own=own)
    device.take(announcing(publish(2, key=SECOND), listed(1, SECOND, key, expires_at=expires_at)))
    with spool.transaction() as transaction:
        known_time.note(transaction, 1_700_000_001.0, clock.now(), 1_700_000_001.0)

    device = device.again(own=own)

    assert (device.loaded_counter, device.slot.error) == (1, None)
    own.write_bytes(publish(3, key=key).read_bytes())
    assert device.again(own=own).loaded_counter is None, "another file is judged by the keys in force"


def test_a_letter_from_the_far_future_does_not_end_updates_and_the_operator_can_set_it_right(
    head_device: HeadDevice, publish: Publish
) -> None:
    head_device.install(publish(1, issued_at=1_800_000_000))
    with head_device.spool.transaction() as transaction:
        known_time.note(transaction, 4e9, clock.now(), wall_unix=1.8e9)

    later = head_device.deliver(publish(2, issued_at=1_800_000_001, expires_at=1_900_000_000))
    assert head_device.state(later)[0] == "receiving"
    short = publish(3, issued_at=1_800_000_002, expires_at=1_801_000_000)
    assert head_device.state(head_device.deliver(short)) == ("refused", "expired")

    installation.install(
        head_device.spool,
        head_device.directory,
        head_device.judge,
        short,
        allow_older=False,
        allow_expired=True,
    )
    after = publish(4, issued_at=1_800_000_003, expires_at=1_801_000_000)
    assert head_device.state(head_device.deliver(after))[0] == "receiving", "the time was forgotten"


def test_a_stolen_keys_heads_end_with_the_key_and_their_counters_count_no_longer(
    head_device: HeadDevice, publish: Publish, key: PrivateKey
) -> None:
    stolen = head_device.install(publish(2**53))
    next_one = announcing(publish(3, key=SECOND), listed(1, SECOND, key))

    head_device.take(next_one)

    assert head_device.state(next_one.bundle)[0] == "receiving"
    assert head_device.state(stolen)[0] == "live", "the device has a head until another has proved itself"


@pytest.mark.parametrize("delivered", [True, False])
def test_a_head_in_use_whose_key_is_revoked_works_on_and_is_told_until_it_is_replaced(
    head_device: HeadDevice, publish: Publish, key: PrivateKey, delivered: bool
) -> None:
    device = head_device
    if delivered:
        device.install(publish(1))
    else:
        device = head_device.again(own=publish(1))
    assert not store.key_revoked(device.spool)
    newer = publish(2, key=SECOND)

    device.take(announcing(newer, listed(1, SECOND, key)))
    device.updater.turn()

    assert device.loaded_counter == 1
    assert store.key_revoked(device.spool)
    device.install(newer)
    assert device.loaded_counter == 2
    assert not store.key_revoked(device.spool)


def test_a_head_of_a_revoked_key_is_told_by_log_status_metric_and_telemetry(
    device: Device,
    owner: BrokerSettings,
    state: StateDirectory,
    publish: Publish,
    run_agent: Callable[..., Process],
    plain: Bundle,
    key: PrivateKey,
) -> None:
    agent = run_agent(device.url, "--telemetry", 1, "--metrics-port", 0)
    live = send(owner, device.user, publish(1, plain))
    wait_until(lambda: states(state).get(live) == "live", "the head is live")
    assert status(state)["head"]["key_revoked"] is False
    lists = KeyHistory(lists=(listed(1, SECOND, key),))
    path = publish(2, replace(plain, key_list=lists), key=SECOND)

    with opened(owner, "ward", with_reports=True) as post:
        parcel = wrap(path.read_bytes(), read_bundle(path))
        post.announce(parcel, device_key(device.user))

        def told() -> bool:
            return any(report.counters.get("head_key_revoked") == 1 for _, report in post.reports(0.5))

        wait_until(told, "the telemetry tells it")
    assert len(agent.events("head_in_use_revoked")) == 1
    found = status(state)
    assert (found["head"]["key_revoked"], found["head"]["error"]) == (True, None)
    with urllib.request.urlopen(f"http://127.0.0.1:{found['agent']['metrics_port']}/metrics") as answer:
        assert b"collafuse_head_key_revoked 1.0" in answer.read()


@pytest.mark.parametrize(
    ("before", "after"), [("receiving", "refused"), ("staged", "refused"), ("trial", "rolled_back")]
)
def test_what_a_key_vouched_for_that_is_replaced_meanwhile_is_given_up(
    head_device: HeadDevice, publish: Publish, key: PrivateKey, before: str, after: str
) -> None:
    stolen, chunks = messages(publish(2**53))
    head_device.take(stolen, *(chunks[:3] if before == "receiving" else chunks))
    if before != "receiving":
        head_device.turn_until(stolen.bundle, before)
    assert head_device.row(stolen.bundle).state == before

    head_device.take(announcing(publish(3, key=SECOND), listed(1, SECOND, key)))
    head_device.updater.turn()

    assert head_device.state(stolen.bundle) == (after, "key_revoked")
    assert head_device.slot.delivered is None


def test_other_keys_in_the_settings_end_what_the_old_ones_had_sent(
    head_device: HeadDevice, state: StateDirectory, publish: Publish
) -> None:
    coming, chunks = messages(publish(2))
    head_device.take(coming, *chunks[:3])

    device = head_device.again(keys=(SECOND.public.text,))

    assert device.state(coming.bundle) == ("refused", "key_revoked")


def test_a_head_that_expires_on_its_way_is_not_staged(head_device: HeadDevice, publish: Publish) -> None:
    coming, chunks = messages(publish(2, issued_at=1_800_000_000, expires_at=1_801_000_000))
    head_device.take(coming)
    with head_device.spool.transaction() as transaction:
        known_time.note(transaction, 1_802_000_000.0, clock.now(), 1_802_000_000.0)

    head_device.take(*chunks)
    head_device.updater.turn()

    assert head_device.state(coming.bundle) == ("refused", "expired")
    assert head_device.spool.rows("SELECT count(*) FROM head_chunks")[0][0] == 0
