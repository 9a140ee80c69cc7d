"""Heads that end the process that runs them, as a fault in the runtime or the kernel's out-of-memory killer does."""

import array
import fcntl
import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.heads import arrivals
from export.bundle.bundle import Bundle
from tests.conftest import wait_until
from tests.edge_agent.heads.bundles import with_trouble
from tests.edge_agent.heads.devices import HeadDevice

Publish = Callable[..., Path]


def checking_process() -> int | None:
    """The process in which this one has a head tried, once it has read the head and is at work with it."""
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            process = Path("/proc", child)
            try:
                if b"golden_check" in (process / "cmdline").read_bytes() and has_spoken(process):
                    return int(child)
            except OSError:
                continue  # it has ended meanwhile
    return None


def has_spoken(process: Path) -> bool:
    """Whether something that nobody has read yet stands in the pipe that is its standard output."""
    waiting = array.array("i", [0])
    with (process / "fd" / "1").open("rb", buffering=0) as pipe:
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)
    return waiting[0] > 0


@pytest.mark.parametrize(
    ("deadly", "said"), [(signal.SIGSEGV, "Segmentation fault"), (signal.SIGKILL, "memory runs out")]
)
def test_a_head_with_which_the_trying_process_dies_is_given_up_and_the_live_one_serves_on(
    head_device: HeadDevice, publish: Publish, plain: Bundle, deadly: signal.Signals, said: str
) -> None:
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

    wait_until(given_up, "the head is given up", 60)

    assert len(killed) == 2, "one death may be the device's fault"
    assert head_device.state(bundle) == ("failed", "check_crashed")
    assert said in str(head_device.row(bundle).detail)
    report = arrivals.report(head_device.spool)
    assert report is not None
    assert (report.bundle, report.state, report.reason) == (bundle, "failed", "check_crashed")
    assert (head_device.slot.delivered, head_device.files) == (live, {live})
    head_device.work(1)
