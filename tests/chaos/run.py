"""One chaos run: work comes in at an even pace while things break at random; then all is mended, drained and counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker.topology import QUEUE_DENOISE, QUEUE_SAMPLES
from tests.brokers import Brokers
from tests.chaos.accounting import Row, account, undone
from tests.chaos.faults import Faults
from tests.chaos.federation import Federation, depth
from tests.chaos.load import Load

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long, how much, and how bad.

    seconds: during which work comes in and things break.  every_seconds: the mean time between two faults.
    drain_seconds: how long all may take to find its place afterwards.  least_faults: things go on breaking until so many have.
    kill_leader_at: kill the node that leads `samples` when this part of the time has passed, besides what is drawn.
    """

    seed: int
    seconds: float = 300.0
    samples: int = 10_000
    requests: int = 1_000
    agents: int = 20
    denoisers: int = 2
    nodes: int = 1
    every_seconds: float = 2.0
    drain_seconds: float = 180.0
    least_faults: int = 0
    kill_leader_at: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The accounting, and how often each kind of fault happened."""

    rows: list[Row]
    faults: dict[str, int]
    drained_seconds: float | None


def run(plan: Plan, root: Path, tell: Tell) -> Outcome:
    """Run it below `root`; `tell` hears of every fault and, now and then, how it goes."""
    begun = time.monotonic()

    def say(text: str) -> None:
        tell(f"{time.monotonic() - begun:6.1f} s  {text}")

    say(
        f"seed {plan.seed}: starting {plan.nodes} brokers, {plan.denoisers + 1} workers, {plan.agents} agents"
    )
    with (
        Brokers(root / "brokers", plan.nodes) as brokers,
        Federation(root, brokers, agents=plan.agents, denoisers=plan.denoisers) as federation,
    ):
        load = Load(federation, plan.samples, plan.requests, plan.seconds, plan.seed)
        faults = Faults(federation, plan.seed, plan.every_seconds, say)
        if plan.kill_leader_at is not None:
            faults.kill_leader_after(plan.kill_leader_at * plan.seconds)
        say("work comes in, and things break")
        load.start()
        faults.start()
        _wait(
            federation,
            lambda: load.done and sum(faults.counts.values()) >= plan.least_faults,
            say,
            plan.seconds + plan.drain_seconds,
        )
        faults.stop()
        say("everything is mended; waiting for all to find its place")
        mended = time.monotonic()
        drained = _wait(federation, lambda: _drained(federation), say, plan.drain_seconds)
        drained_seconds = time.monotonic() - mended if drained else None
        for process in reversed(federation.processes):
            process.stop()
        say("counting")
        return Outcome(account(federation), faults.counts, drained_seconds)


def _wait(federation: Federation, done: Callable[[], bool], say: Tell, seconds: float) -> bool:
    """Wait, as a supervisor does: what ended by itself is noted and started again."""
    deadline, say_at = time.monotonic() + seconds, 0.0
    while not done():
        if time.monotonic() > deadline:
            return False
        for process in federation.processes:
            known = len(process.exits)
            process.watch()
            if len(process.exits) > known:
                say(process.exits[-1])
                process.start()
        if time.monotonic() > say_at:
            say_at = time.monotonic() + 10.0
            waiting = [undone(device) for device in federation.devices]
            say(
                f"in outboxes {sum(messages for messages, _ in waiting):,}, jobs unfinished"
                f" {sum(jobs for _, jobs in waiting):,}, queued {depth(federation.brokers, QUEUE_SAMPLES)} samples"
                f" and {depth(federation.brokers, QUEUE_DENOISE)} requests"
            )
        time.sleep(0.2)
    return True


def _drained(federation: Federation) -> bool:
    if any(any(undone(device)) for device in federation.devices):
        return False
    return depth(federation.brokers, QUEUE_SAMPLES) == 0 and depth(federation.brokers, QUEUE_DENOISE) == 0
