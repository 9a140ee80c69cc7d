"""Faults at random: what is broken, when, and for how long is drawn from one seed."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.federation import Federation

Tell = Callable[[str], None]

WEIGHTS = {
    "cut": 5.0,
    "truncate": 4.0,
    "stall": 2.0,
    "slow": 2.0,
    "agent": 4.0,
    "denoiser": 1.5,
    "trainer": 1.5,
    "broker": 1.0,
}


@dataclass(eq=False)
class Faults:
    """Breaks one thing after the other in a thread of its own; what it broke is whole again when it has stopped.

    seed: of everything that is drawn.  every_seconds: the mean time between two faults.
    """

    federation: Federation
    seed: int
    every_seconds: float
    tell: Tell
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WEIGHTS, 0))

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._mending: list[tuple[float, Callable[[], None]]] = []
        self._broken_brokers: set[int] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Break nothing more, and mend what is broken."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        next_at = time.monotonic() + self._rng.expovariate(1 / self.every_seconds)
        try:
            while not self._stop.wait(0.05):
                self._mend(time.monotonic())
                if time.monotonic() >= next_at:
                    kind = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                    getattr(self, f"_{kind}")()
                    next_at = time.monotonic() + self._rng.expovariate(1 / self.every_seconds)
            self._mend(float("inf"))
        except BaseException as error:  # noqa: BLE001 - handed to whoever stops us
            self._error = error

    def _mend(self, now: float) -> None:
        due = [mend for at, mend in self._mending if at <= now]
        self._mending = [(at, mend) for at, mend in self._mending if at > now]
        for mend in due:
            mend()

    def _later(self, seconds: float, mend: Callable[[], None]) -> None:
        self._mending.append((time.monotonic() + seconds, mend))

    def _note(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.tell(text)

    def _cut(self) -> None:
        number = self._rng.randrange(len(self.federation.links))
        cut = self.federation.links[number].cut()
        self._note("cut", f"link {number} is cut, {cut} connections")

    def _truncate(self) -> None:
        number, count = self._rng.randrange(len(self.federation.links)), self._rng.randrange(1, 20_000)
        self.federation.links[number].truncate_after(count)
        self._note("truncate", f"link {number} breaks off after {count} bytes")

    def _stall(self) -> None:
        number, seconds = self._rng.randrange(len(self.federation.links)), self._rng.uniform(0.5, 4)
        directions = self._rng.choice((("up",), ("down",), ("up", "down")))
        self.federation.links[number].stall(*directions)
        self._later(seconds, self.federation.links[number].resume)
        self._note("stall", f"link {number} stalls {' and '.join(directions)} for {seconds:.1f} s")

    def _slow(self) -> None:
        link = self.federation.links[number := self._rng.randrange(len(self.federation.links))]
        delay, rate = self._rng.uniform(0.02, 0.3), self._rng.uniform(20_000, 400_000)

        def recover() -> None:
            link.delay_seconds, link.bytes_per_second = 0.0, None

        link.delay_seconds, link.bytes_per_second = delay, rate
        self._later(self._rng.uniform(1, 5), recover)
        self._note("slow", f"link {number} has {2 * delay:.2f} s round trip and {rate / 1000:.0f} kB/s")

    def _agent(self) -> None:
        self._kill("agent", self._rng.randrange(len(self.federation.workers), len(self.federation.processes)))

    def _denoiser(self) -> None:
        self._kill("denoiser", self._rng.randrange(1, len(self.federation.workers)))

    def _trainer(self) -> None:
        self._kill("trainer", 0)

    def _kill(self, kind: str, number: int) -> None:
        process = self.federation.processes[number]
        process.kill()
        self._later(self._rng.uniform(0, 3), process.start)
        self._note(kind, f"{process.name} is killed")

    def kill_leader_after(self, seconds: float) -> None:
        """Kill the node that leads the samples when so much time has passed, whatever else is drawn."""
        self._later(seconds, self._leader)

    def _leader(self) -> None:
        if self._broken_brokers:
            self._later(1.0, self._leader)
            return
        self._kill_broker(self.federation.brokers.leader("samples"), "the leader, ")

    def _broker(self) -> None:
        """One node at a time: a cluster of three stands as long as two do."""
        if not self._broken_brokers:
            self._kill_broker(self._rng.randrange(len(self.federation.brokers.nodes)), "")

    def _kill_broker(self, number: int, which: str) -> None:
        brokers = self.federation.brokers
        brokers.kill(number)
        self._broken_brokers.add(number)

        def restart() -> None:
            brokers.start(number)
            self._broken_brokers.discard(number)
            self.tell(f"broker {number} is back")

        self._later(self._rng.uniform(0, 6), restart)
        self._note("broker", f"{which}broker {number}, is killed")
