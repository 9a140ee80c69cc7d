"""How far a rollout has come: what each device said last, in a file that is always whole."""

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
AHEAD = frozenset({"counter_older", "counter_equal", "superseded"})
"""Why a device refuses that has this head, or a newer one, already."""
TEMPORARY = frozenset({"no_room", "agent_too_old", "not_received"})
"""Why a device did badly that may do well when it is asked again."""
POSTPONED = "metered"
"""Why a device refuses what it would take another time: nothing is wrong with the head."""


class DeviceProgress(BaseModel):
    """One device; `heard` says whether it has reported on this bundle since it was sent, `excused` that its failure is known."""

    model_config = ConfigDict(extra="forbid")

    state: DeviceState
    reason: str | None = None
    resent: Annotated[int, Field(ge=0)] = 0
    heard: bool = False
    missing: tuple[int, ...] = ()
    excused: bool = False

    @property
    def ahead(self) -> bool:
        """Whether the device needs this head no more."""
        return self.state == "refused" and self.reason in AHEAD

    @property
    def may_do_better(self) -> bool:
        """Whether it is worth sending the head again once somebody has seen to the device."""
        return self.state in FAILURES and self.reason in TEMPORARY

    @property
    def postponed(self) -> bool:
        """Whether the device has refused the head for now, and is to be asked again by the next run."""
        return self.state == "refused" and self.reason == POSTPONED

    @property
    def did_badly(self) -> bool:
        """Whether the head failed here, or must not be taken."""
        return self.state in FAILURES and not (self.postponed or self.ahead or self.excused)

    def note(self, report: UpdateReport) -> None:
        """Take over what the device says; what has ended well or badly stays ended, unless it ends otherwise later."""
        self.heard = True
        if self.state in ENDED and not self.postponed and report.state not in ENDED:
            return
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
        """How many devices have this head, or a newer one, already."""
        return sum(device.ahead for device in self.devices.values())

    @property
    def open_users(self) -> list[str]:
        """The devices that the bundle was sent to and that have not come to an end with it."""
        return [user for user, device in self.devices.items() if device.state not in ENDED | {"unreachable"}]

    def excuse(self) -> None:
        """Somebody has seen why it was halted: what failed until now counts no more, and what may do better is sent again."""
        for user, device in list(self.devices.items()):
            if device.may_do_better:
                del self.devices[user]
            else:
                device.excused = device.state in FAILURES
        self.halted = None

    def verdict(self, max_failures: float, *, final: bool) -> str | None:
        """Why the rollout must not go on, or None while it may.

        Args:
            max_failures: the largest share of failures among the devices that have come to an end, 0..1.
            final: whether nothing more is waited for: then the smallest number counts.
        """
        found = self.devices.values()
        failures = self.failures
        ended = sum(
            device.state in ENDED and not (device.postponed or device.ahead or device.excused)
            for device in found
        )
        if ended == 0 or (ended < MIN_REPORTS and not final) or failures / ended <= max_failures:
            return None
        reasons = sorted({device.reason or device.state for device in found if device.did_badly})
        return f"{failures} of {ended} devices did not do well with it ({', '.join(reasons[:5])})"


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
        raise DeliveryError(
            f"cannot write {path}: {error.strerror}; the rollout needs it to know whom it reached"
        ) from error
