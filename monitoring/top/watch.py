"""Looking again and again: each source that there is, put together."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from broker.errors import BrokerError
from monitoring.errors import CollafuseError
from monitoring.top import endpoints_source
from monitoring.top.broker_source import BrokerSource
from monitoring.top.endpoints_source import EndpointsSource
from monitoring.top.errors import NoAnswer
from monitoring.top.scrape import Change
from monitoring.top.snapshot import UNKNOWN_NAME, FleetState, QueueState, Snapshot, WorkerState


class Watch:
    """What an operator has at hand: the broker, endpoints of metrics, or both.

    broker, endpoints: None where there is none.  clock: unix seconds.
    """

    def __init__(
        self,
        broker: BrokerSource | None,
        endpoints: EndpointsSource | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._endpoints = endpoints
        self._clock = clock

    def look(self, *, strictly: bool = False) -> Snapshot:
        """Ask everybody. Who does not answer stands in the snapshot as a problem.

        strictly: raise it instead, for a broker; for endpoints, when none of them answers.
        """
        told = {} if self._endpoints is None else self._endpoints.look()
        if strictly and self._broker is None:
            _require_one(told)
        shown = self._of_endpoints(told)
        if self._broker is None:
            return shown
        try:
            return _together(self._of_broker(self._broker), shown)
        except (BrokerError, ValueError) as error:
            if strictly:
                raise
            return replace(shown, problems=(f"the broker cannot be asked: {error}", *shown.problems))

    def _of_broker(self, broker: BrokerSource) -> Snapshot:
        name, wrong = broker.describe()
        queues, missing = broker.queues()
        fleet, unlisted = broker.fleet()
        return Snapshot(self._clock(), name, queues, broker.workers(), fleet, (*wrong, *missing, *unlisted))

    def _of_endpoints(self, told: Mapping[str, Change | NoAnswer]) -> Snapshot:
        exporters = [
            each for each in told.values() if isinstance(each, Change) and endpoints_source.is_exporter(each)
        ]
        queues: tuple[QueueState, ...] = ()
        fleet: FleetState | None = None
        for exporter in exporters[:1]:  # several of one federation say the same
            queues, fleet = endpoints_source.queues(exporter), endpoints_source.fleet(exporter)
        workers = tuple(endpoints_source.worker(place, change) for place, change in told.items())
        problems = tuple(f"{_who(each)}: {each.problem}" for each in workers if each.problem)
        problems = (*problems, *endpoints_source.behind(told))
        if exporters and not queues:
            problems = ("the exporter cannot reach the broker", *problems)
        return Snapshot(self._clock(), None, queues, workers, fleet, problems)


def _who(worker: WorkerState) -> str:
    return worker.where if worker.name == UNKNOWN_NAME else f"{worker.name} at {worker.where}"


def _require_one(told: Mapping[str, Change | NoAnswer]) -> None:
    failures = [each for each in told.values() if isinstance(each, CollafuseError)]
    if failures and len(failures) == len(told):
        raise failures[0]


def _together(broker: Snapshot, endpoints: Snapshot) -> Snapshot:
    """Both; each knows something that the other does not.

    The exporter that reads the devices' telemetry is the same for both, and tells more itself. Which worker of the broker's is
    which endpoint's nobody knows, so they stand side by side.
    """
    twice = {(each.name, each.queues) for each in endpoints.workers if each.queues}
    workers = [each for each in broker.workers if (each.name, each.queues) not in twice]
    ages = {queue.name: queue.oldest_seconds for queue in endpoints.queues}
    fleet = broker.fleet or endpoints.fleet
    if fleet is not None and endpoints.fleet is not None:
        fleet = replace(fleet, told=endpoints.fleet.told)
    return replace(
        broker,
        queues=tuple(
            replace(queue, oldest_seconds=_older(queue.oldest_seconds, ages.get(queue.name)))
            for queue in broker.queues
        ),
        workers=(*workers, *endpoints.workers),
        fleet=fleet,
        problems=(*broker.problems, *endpoints.problems),
    )


def _older(*ages: float | None) -> float | None:
    """Both are lower bounds, so the larger is the better one."""
    return max((age for age in ages if age is not None), default=None)
