"""What can go wrong on a device.

EdgeError
├── SpoolError            the database cannot be used: unreadable, busy, newer than this program
│   ├── SpoolFull         the disk has no room: try again once there is some
│   ├── SpoolDamaged      the file is not what was written: it is set aside and a new one begun
│   ├── SpoolReplaced     the file was set aside by another process while this one had it open
│   ├── SpoolBusy         another process kept it for itself for too long: try again
│   └── JournalUnusable   the record of releases beside it can be neither read nor set aside: nothing is released
├── OutboxFull            the byte quota is reached: new work is refused, the oldest is kept
├── WindowError           a time of day to connect at cannot be read
├── StateError            the state directory cannot be used
├── AgentRunning          another agent holds the state directory
├── ImageError            an image cannot be read or is not what it should be
├── ContributionError     a release is not allowed: schedule, cut or shape disagree with the contract
│   └── BudgetExceeded    it would take an image past the epsilon that its releases may add up to
├── JobRefused            a request for images makes no sense and was not accepted
├── JobFailed             a job ended without pictures; `reason` says why
├── HeadError             the head bundle cannot be used
│   └── ProviderMissing   what it is to run on is not to be had here, whatever the head
├── EnergyUnknown         a budget of energy is set, and nobody can say what a step takes
├── TrainingError         training a head failed
└── SimulationError       a fleet cannot be simulated as it was asked for
"""

from typing import ClassVar

from monitoring.errors import CollafuseError, Disposition


class EdgeError(CollafuseError):
    """The root of what the edge agent reports."""


class SpoolError(EdgeError):
    """The spool's database cannot be used; `event` names it in the log."""

    event: ClassVar = "spool_unusable"


class SpoolFull(SpoolError):
    """The disk below the spool is full; what was accepted before stays intact."""

    event = "spool_full"
    disposition = Disposition.RETRY


class SpoolDamaged(SpoolError):
    """The spool's file is not what was written; whoever holds the agent lock may set it aside."""


class SpoolReplaced(SpoolError):
    """Another process found the spool damaged and set it aside while this one was at work on it."""


class SpoolBusy(SpoolError):
    """Another process kept the spool in a transaction for too long, as one does that was suspended."""

    event = "spool_busy"
    disposition = Disposition.RETRY


class JournalUnusable(SpoolError):
    """The record of releases beside the spool cannot be read or written; everything but releasing goes on."""


class OutboxFull(EdgeError):
    """The outbox has reached its byte quota; new work is refused and the oldest is kept."""

    disposition = Disposition.RETRY


class WindowError(EdgeError, ValueError):
    """A connect window is not written as it should be."""


class StateError(EdgeError):
    """The state directory cannot be made, read or written."""


class AgentRunning(EdgeError):
    """Another agent works on this state directory."""


class ImageError(EdgeError, ValueError):
    """A file is no image, or an image is not what was expected."""


class ContributionError(EdgeError):
    """A release is not allowed as it was asked for."""


class BudgetExceeded(ContributionError):
    """A release would take an image past the device's epsilon budget; nothing of it has left, nor will."""


class JobRefused(EdgeError, ValueError):
    """A request for images was not accepted."""


class KeyReused(JobRefused):
    """The key of a request came with another request before."""


class JobFailed(EdgeError):
    """A job ended without pictures.

    `reason` is a short code in lower case with underscores, for programs; the message is for people.
    """

    disposition = Disposition.DEAD_LETTER

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class HeadError(EdgeError):
    """The head bundle is missing, damaged, or cannot run here."""


class ProviderMissing(HeadError):
    """What heads are to run on is not there, or does not start; nothing is wrong with the head."""


class EnergyUnknown(EdgeError):
    """A budget of energy cannot be kept on this machine."""


class TrainingError(EdgeError):
    """Training a head failed."""


class SimulationError(EdgeError):
    """A fleet cannot be simulated as it was asked for, or a part of it failed."""
