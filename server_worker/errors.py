"""What can go wrong on a server worker.

WorkerError
├── StorageUnusable       the storage cannot be read or written at all: nothing to start with
├── StorageFull           no room, or read-only for the moment: the work goes back and is tried again
├── ContractMismatch      configuration and stored data disagree on the schedule, the shape or the classes
├── Damaged               a stored file is truncated or its digest is wrong
├── NotFinite             weights that are to be kept hold NaN or infinity: start again from what was kept before
├── Unreadable            a file is there and cannot be read at the moment: nothing is known of it, try again
├── Vanished              a segment of samples was merged or erased meanwhile: list them again
├── BrokenSegment         some batches of a segment are not what was written: go on without them
├── NothingToLift         somebody is to be let in again who was not forgotten
├── VersionMissing        a backbone version that does not exist
├── DeviceUnavailable     the wished-for GPU is not there
├── NoMemory              the GPU has no room for a training step
├── RanksApart            a rank that trains together with others has lost them
├── RanksFailed           ranks ended in error more often than they may be restarted
├── CompilerMissing       networks are to be compiled, and there is nothing to compile them with
└── CannotServe           a denoise request that this backbone cannot serve; `reason` says why
"""

from collections.abc import Mapping

from monitoring.errors import CollafuseError, Disposition


class WorkerError(CollafuseError):
    """The root of what server workers report."""


class StorageUnusable(WorkerError):
    """The storage does not exist, is no directory, or may not be read or written."""


class StorageFull(WorkerError):
    """A write found no room: the disk is full, over quota, or read-only."""

    disposition = Disposition.RETRY


class ContractMismatch(WorkerError):
    """What is stored was made for another schedule, shape or number of classes."""


class Damaged(WorkerError):
    """A stored file is not what was written."""


class NotFinite(WorkerError):
    """Weights that were to be written hold NaN or infinity; what was written before is better."""

    disposition = Disposition.RETRY


class Unreadable(WorkerError):
    """A stored file could not be read just now; that says nothing about what it holds, so nothing is done to it."""

    disposition = Disposition.RETRY


class Vanished(WorkerError):
    """A segment is not there any more: what was in it is in another, or erased."""

    disposition = Disposition.RETRY

    def __init__(self, name: str) -> None:
        super().__init__(f"the segment {name} is gone: list the segments again")
        self.name = name


class BrokenSegment(WorkerError):
    """Some batches of a segment are not what was written. reasons: message id to what is wrong with it."""

    disposition = Disposition.RETRY

    def __init__(self, name: str, reasons: Mapping[str, str]) -> None:
        super().__init__(f"{len(reasons)} batches of the segment {name} are damaged")
        self.name = name
        self.reasons = reasons


class NothingToLift(WorkerError):
    """The sender was not forgotten, so there is nothing to take back."""


class VersionMissing(WorkerError):
    """The backbone version asked for is not in the storage."""


class DeviceUnavailable(WorkerError):
    """The compute device asked for is not on this machine."""


class NoMemory(WorkerError):
    """A training step does not fit into the memory of the GPU."""


class RanksApart(WorkerError):
    """Another rank ended: this one ends too, and torchrun starts all of them again from the newest checkpoint."""

    disposition = Disposition.RETRY


class RanksFailed(WorkerError):
    """The ranks did not end in order."""


class CompilerMissing(WorkerError):
    """Compiled steps were asked for on a machine without a C++ compiler."""


class CannotServe(WorkerError):
    """A request that no retry can make servable.

    `reason` is a stable code of lowercase words and underscores, for programs; the message is for people.
    """

    disposition = Disposition.DEAD_LETTER

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
