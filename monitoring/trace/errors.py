"""What can go wrong when an image is followed through the logs."""

from monitoring.errors import MonitoringError


class TraceError(MonitoringError):
    """The root of what following an image reports."""


class BadId(TraceError, ValueError):
    """What was asked for is no id of a job or a request."""


class LogUnreadable(TraceError):
    """A log cannot be read."""


class NothingFound(TraceError):
    """No line of the logs is about the id."""


class ExportFailed(TraceError):
    """The spans did not reach whom they were sent to."""
