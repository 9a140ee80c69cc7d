"""Work for the devices: releases of their images and requests for pictures, accepted at an even pace whatever else happens."""

import random
import threading
import time
from dataclasses import dataclass

from edge_agent import clock
from edge_agent.generation import jobs
from edge_agent.release import contribution
from edge_agent.release.images import open_images
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import contribution_lock
from tests.chaos.federation import Device, Federation
from tests.server_worker.backbones import CLASSES

SEEDS = 25
"""Jobs share few seeds, so that many must come out the same, whoever computed them."""
TURN_SECONDS = 1.0


@dataclass(eq=False)
class Load:
    """Accepts `samples` messages and `requests` jobs in `seconds`, spread over the devices, in a thread of its own."""

    federation: Federation
    samples: int
    requests: int
    seconds: float
    seed: int

    def __post_init__(self) -> None:
        self.error: BaseException | None = None
        self.accepted_samples = 0
        self.accepted_requests = 0
        self._rng = random.Random(self.seed)
        self._spools: dict[str, Spool] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all was accepted. Raises what stopped it."""
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            # This thread's own: SQLite's connections stay with their threads.
            self._spools = {device.name: Spool(device.state.spool) for device in self.federation.devices}
            begun = time.monotonic()
            devices = self.federation.devices
            turns = max(1, round(self.seconds / TURN_SECONDS))
            for turn in range(1, turns + 1):
                # Each device has its share of what is due by now; none has to catch up at the end.
                for number, device in enumerate(devices):
                    self._contribute(device, _share(self.samples * turn // turns, number, len(devices)))
                    self._ask(device, _share(self.requests * turn // turns, number, len(devices)))
                time.sleep(max(0.0, begun + turn * self.seconds / turns - time.monotonic()))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self.error = error
        finally:
            for spool in self._spools.values():
                spool.close()

    def _contribute(self, device: Device, releases: int) -> None:
        """One message for each release that is new: that one of every image of the device."""
        if releases == 0:
            return
        with contribution_lock(device.state):
            summary = contribution.contribute(
                self._spools[device.name],
                open_images(device.images),
                device.state.secret(),
                device.settings(releases),
            )
        self.accepted_samples += summary.batches

    def _ask(self, device: Device, wanted: int) -> None:
        while self._spools[device.name].rows("SELECT count(*) FROM jobs")[0][0] < wanted:
            which = self._rng.randrange(SEEDS)
            jobs.accept(
                self._spools[device.name],
                count=1 + which % 3,
                label=which % CLASSES,
                seed=which,
                ttl_seconds=None,
                moment=clock.now(),
            )
            self.accepted_requests += 1


def _share(total: int, number: int, count: int) -> int:
    return total // count + (number < total % count)
