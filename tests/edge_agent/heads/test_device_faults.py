"""What is the device's own fault while a head is tried: it says nothing of the head, which is tried again, or may come again."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.heads import examiner
from edge_agent.heads.trial import Terms
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle
from export.bundle.keys import PrivateKey
from tests.conftest import wait_until
from tests.edge_agent.heads.bundles import with_trouble
from tests.edge_agent.heads.checking import checking_process
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]
MakeDevice = Callable[..., HeadDevice]


@pytest.fixture
def make_device(state: StateDirectory, spool: Spool, key: PrivateKey) -> MakeDevice:
    """Devices of other settings than most; to be left without a check under way."""

    def make(**settings: Any) -> HeadDevice:
        return HeadDevice(
            state, spool, keys=(key.public.text,), terms=Terms(images=2, seconds=1e6), **settings
        )

    return make


def signal_the_check(device: HeadDevice, deed: signal.Signals) -> int:
    """Send it to the process that tries the staged head, as soon as it is at work; returns its process id."""
    found: list[int] = []

    def sent() -> bool:
        device.updater.turn()
        process = checking_process()
        if process is None:
            return False
        os.kill(process, deed)
        found.append(process)
        return True

    wait_until(sent, "the head is being tried")
    return found[0]


def ended(device: HeadDevice, process: Path) -> bool:
    """Whether the agent has seen the end of a process."""
    device.updater.turn()
    return not process.exists()


def test_a_head_is_not_given_up_for_good_where_its_provider_is_missing(
    make_device: MakeDevice, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    device = make_device(provider="cuda")
    path = publish(1)

    bundle = device.deliver(path)
    device.turn_until(bundle, "failed")

    assert device.state(bundle) == ("failed", "provider_missing")
    device.deliver(path)
    assert device.state(bundle) == ("failed", "provider_missing"), "not at once"
    device.reboot()
    device.again().install(path)


def test_a_head_on_trial_is_not_given_up_for_good_where_its_provider_is_lost(
    head_device: HeadDevice, publish: Publish
) -> None:
    path = publish(1)
    bundle = head_device.deliver(path)
    head_device.turn_until(bundle, "trial")

    device = head_device.again(provider="cuda")

    assert device.state(bundle) == ("rolled_back", "provider_missing")
    device.reboot()
    device.again().install(path)


def test_a_check_that_was_frozen_once_is_made_again(
    make_device: MakeDevice, publish: Publish, plain: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    device = make_device(check_seconds=10.0)
    bundle = device.deliver(publish(1, plain))

    signal_the_check(device, signal.SIGSTOP)

    device.turn_until(bundle, "trial", "failed")
    assert device.state(bundle) == ("trial", None)


def test_after_a_check_that_was_killed_there_is_a_pause(
    head_device: HeadDevice, publish: Publish, plain: Bundle
) -> None:
    bundle = head_device.deliver(publish(1, with_trouble(plain, "hang", images=3)))
    killed = Path("/proc", str(signal_the_check(head_device, signal.SIGKILL)))

    wait_until(lambda: ended(head_device, killed), "its end is seen")
    for _ in range(10):
        head_device.updater.turn()

    row = head_device.row(bundle)
    assert (row.state, row.starts) == ("staged", 1), "no second check has begun"


def test_a_head_whose_check_was_killed_twice_may_come_again_after_a_while(
    head_device: HeadDevice, publish: Publish, plain: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    path = publish(1, with_trouble(plain, "hang", images=3))
    bundle = head_device.deliver(path)
    for _ in range(2):
        killed = Path("/proc", str(signal_the_check(head_device, signal.SIGKILL)))
        wait_until(lambda killed=killed: ended(head_device, killed), "its end is seen")  # type: ignore[misc]
    assert head_device.state(bundle) == ("failed", "check_killed")

    head_device.reboot()
    head_device.deliver(path)

    head_device.turn_until(bundle, "staged")
