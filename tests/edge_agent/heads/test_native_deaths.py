"""Heads that end the process that runs them, as a fault in the runtime or the kernel's out-of-memory killer does."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.heads import arrivals, examiner
from export.bundle.bundle import Bundle
from tests.conftest import wait_until
from tests.edge_agent.heads.bundles import with_trouble
from tests.edge_agent.heads.checking import checking_process
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]


@pytest.mark.parametrize(
    ("deadly", "reason", "said"),
    [
        (signal.SIGSEGV, "check_crashed", "Segmentation fault"),
        (signal.SIGKILL, "check_killed", "memory runs out"),
    ],
)
def test_a_head_with_which_the_trying_process_dies_is_given_up_and_the_live_one_serves_on(
    head_device: HeadDevice,
    publish: Publish,
    plain: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    deadly: signal.Signals,
    reason: str,
    said: str,
) -> None:
    monkeypatch.setattr(examiner, "_RETRY_SECONDS", 0.0)
    live = head_device.install(publish(1))
    bundle = head_device.deliver(publish(2, with_trouble(plain, "hang", images=3)))
    killed: set[int] = set()

    def given_up() -> bool:
        head_device.updater.turn()
        process = checking_process()
        if process is not None and process not in killed:
            killed.add(process)
            os.kill(process, deadly)
        return head_device.row(bundle).state != "staged"

    wait_until(given_up, "the head is given up")

    assert len(killed) == 2, "one death may be the device's fault"
    assert head_device.state(bundle) == ("failed", reason)
    assert said in str(head_device.row(bundle).detail)
    report = arrivals.report(head_device.spool)
    assert report is not None
    assert (report.bundle, report.state, report.reason) == (bundle, "failed", reason)
    assert (head_device.slot.delivered, head_device.files) == (live, {live})
    head_device.work(1)
