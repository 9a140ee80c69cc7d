"""How far a rollout has come: what each device said last, in a file that is always whole."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.contract.telemetry import UpdateReport
from export.delivery.errors import DeliveryError
from export.delivery.parcel import Parcel
from export.files import replace_file

MIN_REPORTS = 3
"""So many devices have to have come to an end before a share of failures means anything in mid-rollout."""
MAX_RESENT = 3
"""How often what a device says is missing is sent again."""

DeviceState = Literal[
    "unreachable", "sent", "receiving", "staged", "trial", "installed", "refused", "failed", "rolled_back"
]
ENDED: frozenset[DeviceState] = frozenset({"installed", "refused", "failed", "rolled_back"})
FAILURES: frozenset[DeviceState] = frozenset({"refused", "failed", "rolled_back"})
UNDER_WAY: frozenset[DeviceState] = frozenset({"staged", "trial"})
"""Whoever is still here when nobody waits any longer hangs: the head is whole and does not come to an end."""
POSTPONED = "metered"
"""Why a device refuses what it would take another time: nothing is wrong with the head."""
AHEAD = frozenset({"counter_older", "counter_equal", "superseded"})
"""Why a device does not take the head that has this one or a newer: nothing is wrong with either."""
TEMPORARY = frozenset(
    {
        POSTPONED,
        "no_room",
        "superseded",
        "agent_too_old",
        "not_received",
        "not_read",
        "damaged",
        "malformed",
        "not_as_announced",
        "file_damaged",
        "file_missing",
        "check_killed",
        "provider_missing",
    }
)
"""Why a device has not taken the head, and may take it when it is offered again."""


class DeviceProgress(BaseModel):
    """One device.

    heard: it has reported on this bundle since it was sent.
    judged: whether it goes well here counts; not of what was known when the owner resumed a halted rollout.
    """

    model_config = ConfigDict(extra="forbid")

    state: DeviceState
    reason: str | None = None
    resent: Annotated[int, Field(ge=0)] = 0
    heard: bool = False
    judged: bool = True
    missing: tuple[int, ...] = ()

    @property
    def postponed(self) -> bool:
        """Whether the device has refused the head for now, and is to be asked again by the next run."""
        return self.state == "refused" and self.reason == POSTPONED

    @property
    def ahead(self) -> bool:
        """Whether the device did not take the head for one that is as new or newer."""
        return self.state in FAILURES and self.reason in AHEAD

    @property
    def may_take_it_later(self) -> bool:
        """Whether it makes sense to offer the head again."""
        return self.state in FAILURES and self.reason in TEMPORARY

    @property
    def did_badly(self) -> bool:
        """Whether the head failed here, or must not be taken."""
        return self.state in FAILURES and not self.postponed and not self.ahead

    def counts(self, *, final: bool) -> bool:
        """Whether something follows from how it went here; of one that hangs only when nobody waits any longer."""
        if not self.judged or self.postponed or self.ahead:
            return False
        return self.state in ENDED or (final and self.state in UNDER_WAY)

    def note(self, report: UpdateReport) -> None:
        """Take over what the device says; what has ended stays ended, unless it ends otherwise or may be taken after all."""
        self.heard = True
        if self.state in ENDED and not self.may_take_it_later and report.state not in ENDED:
            return
        if (report.state, report.reason) != (self.state, self.reason):
            self.judged = True
        self.state, self.reason = report.state, report.reason


class Progress(BaseModel):
    """A rollout of one bundle; `halted` says why it was halted, None while it is not."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["collafuse-rollout-v1"] = "collafuse-rollout-v1"
    client: str
    bundle: str
    name: str
    counter: int
    halted: str | None = None
    devices: dict[str, DeviceProgress] = {}

    def count(self, *states: DeviceState) -> int:
        """How many devices are in one of these states."""
        return sum(device.state in states for device in self.devices.values())

    @property
    def failures(self) -> int:
        """How many devices did badly with it."""
        return sum(device.did_badly for device in self.devices.values())

    @property
    def postponed(self) -> int:
        """How many devices refuse it for as long as their link costs by the byte."""
        return sum(device.postponed for device in self.devices.values())

    @property
    def ahead(self) -> int:
        """How many devices have a head that is as new or newer."""
        return sum(device.ahead for device in self.devices.values())

    @property
    def stuck(self) -> int:
        """How many devices have the whole head and have not come to an end with it."""
        return self.count(*UNDER_WAY)

    @property
    def silent(self) -> int:
        """How many devices have not come to an end, and are not known to be at it."""
        return sum(device.state not in ENDED and not device.heard for device in self.devices.values())

    @property
    def has_come_to_something(self) -> bool:
        """Whether any device has said, of itself, how it ended with the head; true of a rollout that reached nobody yet."""
        return not self.devices or self.count("installed") + self.failures > 0

    def installed_share(self) -> float:
        """Of the devices that could have taken the head, those that have it in use: 0..1, and 1 where there is none."""
        able = [
            device.state == "installed"
            for device in self.devices.values()
            if device.state != "unreachable" and not device.postponed and not device.ahead
        ]
        return sum(able) / len(able) if able else 1.0

    @property
    def open_users(self) -> list[str]:
        """The devices that the bundle was sent to and that have not come to an end with it."""
        return [user for user, device in self.devices.items() if device.state not in ENDED | {"unreachable"}]

    def verdict(self, max_failures: float, *, final: bool) -> str | None:
        """Why the rollout must not go on, or None while it may.

        Args:
            max_failures: the largest share of failures among the devices that have come to an end, 0..1.
            final: whether nothing more is waited for: then the smallest number counts, and who hangs has failed.
        """
        counted = [device for device in self.devices.values() if device.counts(final=final)]
        bad = [device for device in counted if device.state != "installed"]
        if not counted or (len(counted) < MIN_REPORTS and not final):
            return None
        if len(bad) / len(counted) <= max_failures:
            return None
        reasons = sorted({device.reason or device.state for device in bad})
        return f"{len(bad)} of {len(counted)} devices did not do well with it ({', '.join(reasons[:5])})"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the file at `path` to oneself; the lock goes with the process, however it ends.

    Raises DeliveryError when another process has it.
    """
    try:
        # Beside it: the file itself is replaced whenever it is written.
        lock = path.with_name(f".{path.name}.lock").open("a")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DeliveryError(
                f"another rollout is at work with {path}: wait until it has ended, or end it"
            ) from error
        yield


def load(path: Path, parcel: Parcel) -> Progress:
    """The rollout in the file at `path`, or a new one where there is no file.

    Raises DeliveryError when the file is damaged, or about another bundle.
    """
    manifest = parcel.manifest
    if not path.exists():
        return Progress(
            client=manifest.client,
            bundle=parcel.announcement.bundle,
            name=manifest.name,
            counter=manifest.counter,
        )
    try:
        found = Progress.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DeliveryError(
            f"{path} is not the state of a rollout: restore it, or name another file"
        ) from error
    if found.bundle != parcel.announcement.bundle:
        raise DeliveryError(
            f"{path} is about {found.name} (counter {found.counter}), not this bundle: name another file with --state"
        )
    return found


def save(path: Path, progress: Progress) -> None:
    """Write it down, whole or not at all. Raises DeliveryError."""
    try:
        replace_file(path, progress.model_dump_json(indent=1).encode())
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> DeliveryError:
    return DeliveryError(
        f"cannot write {path}: {error.strerror}; the rollout needs it to know whom it reached"
    )
