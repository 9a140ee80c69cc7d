"""A head reaches a share of the devices, is watched there, and goes no further when too many do badly with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.contract.telemetry import TelemetryV1
from broker.errors import PublishFailed
from broker.topology import device_key
from export.delivery import progress as progress_file
from export.delivery.cohorts import in_cohort
from export.delivery.errors import RolloutHalted, RolloutUnfinished
from export.delivery.parcel import Parcel
from export.delivery.post import Post
from export.delivery.progress import MAX_RESENT, DeviceProgress, Progress

log = structlog.get_logger(__name__)

_LISTEN_SECONDS = 0.5
_CATCH_UP_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """How a rollout is to go.

    percent: of the devices that are to have the head after it, 0..100.
    max_failures: largest share of devices, of those that came to an end with it, that may have failed.
    wait_seconds: how long to wait for devices that have not.
    ask_seconds: after so long without progress a device that was heard of is asked how it stands.
    min_installed: share of the devices reached before that has to have the head in use before others get it, 0..1.
    resume_halted: go on although the rollout was halted; what was known by then is not held against it again.
    """

    percent: float
    max_failures: float = 0.05
    min_installed: float = 0.5
    wait_seconds: float = 1800.0
    ask_seconds: float = 30.0
    resume_halted: bool = False


class Rollout:
    """One run of a rollout; another on the same file goes on where it ended.

    post: the link, with reports.
    parcel: what is sent.
    path: of the rollout's file.
    tell: called whenever something has changed.
    """

    def __init__(
        self, post: Post, parcel: Parcel, path: Path, tell: Callable[[Progress], None] | None = None
    ) -> None:
        self._post = post
        self._parcel = parcel
        self._path = path
        self._tell = tell or (lambda _progress: None)
        self._asked_at: dict[str, float] = {}
        self._asked_again: set[str] = set()
        self.progress = progress_file.load(path, parcel)

    def run(self, users: Sequence[str], plan: Plan) -> Progress:
        """Send the head to the share of `users` that has not got it, and wait for what they say.

        Raises:
            RolloutHalted: when too many failed, now or in an earlier run.
            RolloutUnfinished: when too few of those who were reached before have it for others to get it.
            DeliveryError: when the file cannot be written, or another rollout is at work with it.
        """
        with progress_file.locked(self._path):
            self.progress = progress_file.load(self._path, self._parcel)
            return self._run(users, plan)

    def _run(self, users: Sequence[str], plan: Plan) -> Progress:
        if self.progress.halted is not None and not plan.resume_halted:
            raise RolloutHalted(
                f"the rollout of {self._parcel.title} was halted: {self.progress.halted}; look at those devices, and add"
                " --resume-halted to go on all the same"
            )
        resumed = self.progress.halted is not None
        self.progress.halted = None
        self._catch_up()
        if resumed:
            self._draw_a_line()
        self._note()
        for user in users:
            self._ask_again(user)
        cohort = self._cohort(users, plan.percent)
        if not resumed and not self.progress.devices.keys() >= set(cohort):
            self._wait_for_those_before(plan)
        for user in cohort:
            self._listen(0.0)
            self._halt_if(plan, final=False)
            self._send(user)
        self._watch(plan, lambda: not self.progress.open_users)
        self._halt_if(plan, final=True)
        return self.progress

    def _catch_up(self) -> None:
        """Hear what was said while nobody listened, so that no old word is taken for an answer to a new question."""
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while self._listen(_LISTEN_SECONDS) and time.monotonic() < deadline:
            pass

    def _draw_a_line(self) -> None:
        """What is known of the devices is not judged again; those of whom nothing is known are asked."""
        for user, device in self.progress.devices.items():
            device.judged = False
            if device.state == "sent" and not device.heard:
                self._offer(user)

    def _wait_for_those_before(self, plan: Plan) -> None:
        """A larger share begins when enough of the smaller one have the head in use."""
        enough: Callable[[], bool] = lambda: self.progress.installed_share() >= plan.min_installed  # noqa: E731
        self._watch(plan, lambda: enough() or not self.progress.open_users)
        if enough():
            return
        self._halt_if(plan, final=True)
        have, sent = self.progress.count("installed"), len(self.progress.devices)
        raise RolloutUnfinished(
            f"nobody else gets {self._parcel.title} yet: {have} of the {sent} devices that were to have it first have it in"
            f" use, and the share has to be {plan.min_installed:g}; run it again later, or lower --min-installed"
        )

    def _cohort(self, users: Sequence[str], percent: float) -> list[str]:
        """Those of the share to whom it was not sent yet, in the order in which shares grow."""
        manifest, devices = self._parcel.manifest, self.progress.devices
        return [
            user
            for user in users
            if in_cohort(manifest.name, manifest.counter, user, percent)
            and (user not in devices or devices[user].state == "unreachable")
        ]

    def _send(self, user: str) -> None:
        try:
            self._post.send(self._parcel, device_key(user))
        except PublishFailed as error:
            log.warning("device_unreachable", user=user, error=str(error))
            self.progress.devices[user] = DeviceProgress(state="unreachable", reason=error.reason)
        else:
            self.progress.devices[user] = DeviceProgress(state="sent")
        self._asked_at[user] = time.monotonic()
        self._note()

    def _ask_again(self, user: str) -> None:
        """Offer the head, once in a run, to a device that did not take it for a reason that passes."""
        device = self.progress.devices.get(user)
        if device is not None and device.may_take_it_later and user not in self._asked_again:
            self._offer(user)

    def _offer(self, user: str) -> None:
        """Announce the head without its pieces, for the link may cost still; who takes it now says which are missing."""
        before = self.progress.devices[user]
        self._asked_again.add(user)
        self.progress.devices[user] = DeviceProgress(state="sent", heard=before.heard)
        self._asked_at[user] = time.monotonic()
        try:
            self._post.announce(self._parcel, device_key(user))
        except PublishFailed as error:
            log.warning("device_unreachable", user=user, error=str(error))
            self.progress.devices[user] = before
        self._note()

    def _watch(self, plan: Plan, until: Callable[[], bool]) -> None:
        """Listen until something is so, the time is over, or too many have failed."""
        deadline = time.monotonic() + plan.wait_seconds
        while not until() and time.monotonic() < deadline:
            self._listen(min(_LISTEN_SECONDS, max(0.0, deadline - time.monotonic())))
            self._halt_if(plan, final=False)
            for user in self.progress.open_users:
                self._ask(user, plan.ask_seconds)

    def _ask(self, user: str, ask_seconds: float) -> None:
        """A device that was heard of and says nothing more is asked; one that is away finds the first question."""
        last = self._asked_at.setdefault(user, time.monotonic())
        if not self.progress.devices[user].heard or time.monotonic() - last < ask_seconds:
            return
        self._asked_at[user] = time.monotonic()
        try:
            self._post.announce(self._parcel, device_key(user))
        except PublishFailed as error:
            log.warning("device_unreachable", user=user, error=str(error))

    def _listen(self, timeout_seconds: float) -> int:
        """Take in the reports that are there, or come within `timeout_seconds`; returns how many."""
        heard = 0
        for user, report in self._post.reports(timeout_seconds):
            heard += 1
            if user in self.progress.devices:
                self._hear(user, report)
        return heard

    def _hear(self, user: str, report: TelemetryV1) -> None:
        device, update = self.progress.devices[user], report.update
        if update is None or update.bundle != self._parcel.announcement.bundle:
            return
        # A piece may still be on its way: only what was missing before, and still is, was lost.
        stuck = update.state == "receiving" and bool(update.missing) and update.missing == device.missing
        device.note(update)
        device.missing = update.missing
        if stuck:
            self._send_again(user, device)
        if device.postponed:
            self._ask_again(user)
        self._note()

    def _send_again(self, user: str, device: DeviceProgress) -> None:
        if device.resent >= MAX_RESENT:
            device.state, device.reason = "failed", "not_received"
            return
        device.resent += 1
        ranges = list(zip(device.missing[::2], device.missing[1::2], strict=True))
        device.missing = ()
        self._asked_at[user] = time.monotonic()
        try:
            self._post.send(self._parcel, device_key(user), ranges)
        except PublishFailed as error:
            log.warning("device_unreachable", user=user, error=str(error))

    def _halt_if(self, plan: Plan, *, final: bool) -> None:
        why = self.progress.verdict(plan.max_failures, final=final)
        if why is None:
            return
        self.progress.halted = why
        self._note()
        raise RolloutHalted(
            f"the rollout of {self._parcel.title} is halted: {why}; {self._path} says which devices they are"
        )

    def _note(self) -> None:
        progress_file.save(self._path, self.progress)
        self._tell(self.progress)
