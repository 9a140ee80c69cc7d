"""What a step of the head costs on this device: measured once for each head, provider and number of threads, then followed."""

import json
import math
import statistics
from collections import deque
from dataclasses import asdict, dataclass, replace
from time import perf_counter

import numpy as np
import structlog

from edge_agent.errors import HeadError
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head import Head
from edge_agent.heads.head_slot import Loaded
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

HEAD_BATCH = 16
"""Images per network call of the head at most."""
_CALLS = 5
_REMEMBERED_STEPS = 31
_ENOUGH_STEPS = 9
_WORTH_WRITING = 0.1


@dataclass(frozen=True)
class StepCost:
    """One step, network and sampler, of one image and of HEAD_BATCH images together.

    joules_*: None where nobody knows.  kind: "measured" or "estimated", of the joules.
    """

    seconds_one: float
    seconds_batch: float
    joules_one: float | None = None
    joules_batch: float | None = None
    kind: str | None = None

    def seconds(self, count: int) -> float:
        """Mean seconds that a step takes for one of `count` images that are finished one batch after the other."""
        return _per_image(self.seconds_one, self.seconds_batch, count)

    def joules(self, count: int) -> float | None:
        """Mean joules, likewise."""
        if self.joules_one is None or self.joules_batch is None:
            return None
        return _per_image(self.joules_one, self.joules_batch, count)


def measure(head: Head, energy: EnergyMeter) -> StepCost:
    """Let the head take a few steps: medians of their seconds, means of their joules. Raises HeadError."""
    seconds_one, joules_one = _measure(head, energy, 1)
    seconds_batch, joules_batch = _measure(head, energy, HEAD_BATCH)
    return StepCost(seconds_one, seconds_batch, joules_one, joules_batch, energy.kind)


class StepMeter:
    """Knows what a step of the loaded head costs; remembers it across restarts.

    spool: where it is remembered.  energy: how joules are known.  threads: of the head, as it was told.
    """

    def __init__(self, spool: Spool, energy: EnergyMeter, threads: int | None) -> None:
        self.cost: StepCost | None = None
        self._spool = spool
        self._energy = energy
        self._threads = threads
        self._runner: str | None = None
        self._steps: dict[int, deque[float]] = {}

    def look(self, loaded: Loaded | None) -> None:
        """Bring `cost` up to date with the loaded head; takes a few steps of it when it is new here."""
        if loaded is None:
            return
        runner = f"{loaded.facts.identity}|{loaded.head.provider}|{self._threads or 'all'}"
        if runner == self._runner:
            return
        self._runner = runner
        self._steps = {1: deque(maxlen=_REMEMBERED_STEPS), HEAD_BATCH: deque(maxlen=_REMEMBERED_STEPS)}
        self.cost = self._remembered(runner)
        if self.cost is None or self.cost.kind != self._energy.kind:
            self._measure(runner, loaded.head)

    def note(self, count: int, seconds: float) -> None:
        """A step of `count` images took so long; medians of such take the place of what was measured at first."""
        steps = self._steps.get(count)
        if steps is None or self.cost is None:
            return
        steps.append(seconds)
        if len(steps) < _ENOUGH_STEPS:
            return
        median = statistics.median(steps)
        before = self.cost.seconds_one if count == 1 else self.cost.seconds_batch
        if abs(median - before) <= _WORTH_WRITING * before:
            return
        # Energy goes with time: a slower clock draws less, so this errs on the safe side of a budget.
        scale = median / before
        if count == 1:
            self._write(
                replace(self.cost, seconds_one=median, joules_one=_times(self.cost.joules_one, scale))
            )
        else:
            self._write(
                replace(self.cost, seconds_batch=median, joules_batch=_times(self.cost.joules_batch, scale))
            )

    def _measure(self, runner: str, head: Head) -> None:
        try:
            cost = measure(head, self._energy)
        except HeadError as error:
            log.warning("head_not_measured", runner=runner, error=str(error))
            return
        finally:
            head.rest()
        self._write(cost)
        log.info("head_measured", runner=runner, step_seconds=cost.seconds_one, joules=cost.joules_one)

    def _remembered(self, runner: str) -> StepCost | None:
        row = self._spool.row("SELECT body FROM step_costs WHERE runner = ?", (runner,))
        return None if row is None else StepCost(**json.loads(row[0]))

    def _write(self, cost: StepCost) -> None:
        self.cost = cost
        with self._spool.transaction() as transaction:
            transaction.execute(
                "INSERT INTO step_costs (runner, body) VALUES (?, ?)"
                " ON CONFLICT (runner) DO UPDATE SET body = excluded.body",
                (self._runner, json.dumps(asdict(cost))),
            )


def _measure(head: Head, energy: EnergyMeter, count: int) -> tuple[float, float | None]:
    """Median seconds and mean joules of a step of `count` images, the first step left out: it makes room for the others."""
    # Not drawn: numpy.random is three megabytes that an agent does not need for anything else.
    shape = (count, *head.manifest.image_shape)
    x = np.sin(np.arange(math.prod(shape), dtype=np.float32)).reshape(shape)
    keys = np.arange(count)
    seconds: list[float] = []

    def take_step() -> None:
        head.finish(
            x,
            (head.manifest.t_cut, 0),
            seeds=keys.astype(np.uint64),
            samples=keys,
            on_step=lambda _t, _s, took: seconds.append(took),
        )

    take_step()
    seconds.clear()
    before, started = energy.read(), perf_counter()
    for _ in range(_CALLS):
        take_step()
    joules = energy.joules_since(before, perf_counter() - started)
    return statistics.median(seconds), None if joules is None else joules / _CALLS


def _per_image(one: float, batch: float, count: int) -> float:
    """What is measured for 1 and for HEAD_BATCH, at any count: full batches, and a last one in between."""
    full, rest = divmod(count, HEAD_BATCH)
    last = one + (rest - 1) * (batch - one) / (HEAD_BATCH - 1) if rest else 0.0
    return (full * batch + last) / count


def _times(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
