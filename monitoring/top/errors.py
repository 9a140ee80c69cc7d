"""What can go wrong when somebody looks on."""

from monitoring.errors import MonitoringError


class NoAnswer(MonitoringError):
    """An endpoint of metrics does not answer, or with something else."""


class NothingToWatch(MonitoringError):
    """Neither a broker nor an endpoint was named."""
