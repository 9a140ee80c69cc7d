"""What can go wrong while a run is measured.

EvaluationError
├── DataError            the images or the split asked for make no sense (also a ValueError)
├── MeasurementsError    a figure was asked for that could not be given with its spread
└── SummaryError         a summary that cannot be written or read
"""

from monitoring.errors import CollafuseError


class EvaluationError(CollafuseError):
    """A measurement that cannot be made; the message says which, and what it lacks."""


class DataError(EvaluationError, ValueError):
    """Images, labels or a split that make no sense."""


class MeasurementsError(EvaluationError):
    """There are too few values to state a spread, so no figure is given at all."""


class SummaryError(EvaluationError):
    """A summary file that is damaged or was written by another version."""
