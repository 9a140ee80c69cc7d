"""What can go wrong while a run is measured.

EvaluationError
├── DataError            the images or the split asked for make no sense (also a ValueError)
├── MeasurementsError    a figure was asked for that could not be given with its spread
├── DesignError          an evaluation that could not answer anything (also a ValueError)
├── TextError            a text, or an encoder of texts, that nothing can be asked with
├── RunError             an evaluation that cannot go on: its folder, its networks, its processes
└── SummaryError         a summary that cannot be written or read
"""

from monitoring.errors import CollafuseError


class EvaluationError(CollafuseError):
    """A measurement that cannot be made; the message says which, and what it lacks."""


class DataError(EvaluationError, ValueError):
    """Images, labels or a split that make no sense."""


class MeasurementsError(EvaluationError):
    """There are too few values to state a spread, so no figure is given at all."""


class DesignError(EvaluationError, ValueError):
    """Sizes or repetitions from which nothing could be concluded."""


class TextError(EvaluationError):
    """A text that an encoder cannot read, or an encoder that cannot be had."""


class RunError(EvaluationError):
    """An evaluation cannot be run or continued."""


class SummaryError(EvaluationError):
    """A summary file that is damaged or was written by another version."""
