"""What can go wrong when somebody looks on."""

from monitoring.errors import MonitoringError


class NoAnswer(MonitoringError):
    """An endpoint of metrics does not answer, or with something else.

    place: host and port.  why: the rest of the sentence that begins with it.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place} {why}")
        self.why = why


class NothingToWatch(MonitoringError):
    """Neither a broker nor an endpoint was named."""
