"""What is remembered of a rollout, and when it must not go on. Nothing here touches a broker."""

from pathlib import Path

import pytest

from broker.contract.telemetry import UpdateReport, UpdateState
from export.delivery import progress as progress_file
from export.delivery.errors import DeliveryError
from export.delivery.progress import DeviceProgress, DeviceState, Progress


def progress(*states: DeviceState) -> Progress:
    return Progress(
        client="ward",
        bundle="a" * 64,
        name="ward",
        counter=1,
        devices={f"ward_d{number}": DeviceProgress(state=state) for number, state in enumerate(states)},
    )


def report(state: UpdateState, reason: str | None = None) -> UpdateReport:
    return UpdateReport(bundle="a" * 64, state=state, reason=reason, missing=(), attempts=0)


@pytest.mark.parametrize(
    ("states", "max_failures", "final", "halted"),
    [
        ((), 0.0, True, False),
        (("installed",) * 20, 0.0, True, False),
        (("failed", "failed"), 0.05, False, False),
        (("failed", "failed"), 0.05, True, True),
        (("failed", "installed", "installed"), 0.05, False, True),
        (("failed", "installed", "installed"), 0.34, False, False),
        (("failed", *("installed",) * 19), 0.05, True, False),
        (("failed", "rolled_back", *("installed",) * 18), 0.05, True, True),
        (("refused", "sent", "sent", "trial", "receiving"), 0.05, False, False),
        (("refused", "sent", "sent", "trial", "receiving"), 0.05, True, True),
        (("unreachable", "sent", "sent"), 0.0, True, False),
        (("trial", "trial", "staged"), 0.05, False, False),
        (("trial", "trial", "staged"), 0.05, True, True),
        (("trial", *("installed",) * 19), 0.05, True, False),
    ],
)
def test_a_share_of_failures_halts_once_enough_devices_have_come_to_an_end(
    states: tuple[DeviceState, ...], max_failures: float, final: bool, halted: bool
) -> None:
    assert (progress(*states).verdict(max_failures, final=final) is not None) == halted


def test_why_it_was_halted_names_the_reasons() -> None:
    found = progress("failed", "rolled_back", "installed")
    found.devices["ward_d0"].note(report("failed", "wrong_answers"))

    assert (
        found.verdict(0.1, final=True)
        == "2 of 3 devices did not do well with it (rolled_back, wrong_answers)"
    )


def test_a_device_on_a_metered_link_is_no_failure_and_may_begin_again() -> None:
    found = progress("sent", "sent", "sent", "installed")
    for name in ("ward_d0", "ward_d1", "ward_d2"):
        found.devices[name].note(report("refused", "metered"))

    assert found.verdict(0.0, final=True) is None
    assert (found.postponed, found.failures, found.open_users) == (3, 0, [])
    found.devices["ward_d0"].note(report("receiving"))
    assert found.open_users == ["ward_d0"]
    found.devices["ward_d1"].note(report("refused", "expired"))
    assert found.verdict(0.5, final=True) is None
    assert found.verdict(0.4, final=True) == "1 of 2 devices did not do well with it (expired)"


@pytest.mark.parametrize("reason", ["counter_older", "counter_equal", "superseded"])
def test_a_device_with_a_newer_head_is_ahead_and_no_failure(reason: str) -> None:
    found = progress("sent", "sent", "sent", "installed")
    for name in ("ward_d0", "ward_d1", "ward_d2"):
        found.devices[name].note(report("refused", reason))

    assert found.verdict(0.0, final=True) is None
    assert (found.ahead, found.failures, found.installed_share()) == (3, 0, 1.0)


def test_a_rollout_comes_to_something_when_a_device_has_ended_with_the_head() -> None:
    assert progress().has_come_to_something
    assert not progress("sent", "trial", "unreachable").has_come_to_something
    assert progress("sent", "installed").has_come_to_something
    assert progress("sent", "failed").has_come_to_something


def test_what_was_known_before_the_owner_went_on_is_not_judged_until_it_changes() -> None:
    found = progress("failed", "failed", "installed", "trial", "sent")
    for device in found.devices.values():
        device.judged = False

    assert found.verdict(0.0, final=True) is None
    found.devices["ward_d0"].note(report("failed"))
    assert found.verdict(0.0, final=True) is None, "it says the same again"
    found.devices["ward_d2"].note(report("rolled_back", "crashed"))
    assert found.verdict(0.5, final=True) == "1 of 1 devices did not do well with it (crashed)"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("refused", "no_room"),
        ("refused", "agent_too_old"),
        ("refused", "metered"),
        ("refused", "superseded"),
        ("refused", "damaged"),
        ("refused", "malformed"),
        ("failed", "malformed"),
        ("failed", "not_as_announced"),
        ("failed", "not_read"),
        ("failed", "check_killed"),
        ("failed", "provider_missing"),
        ("rolled_back", "provider_missing"),
        ("rolled_back", "file_damaged"),
        ("rolled_back", "file_missing"),
    ],
)
def test_whoever_ended_for_a_reason_that_passes_may_take_it_later(state: UpdateState, reason: str) -> None:
    device = DeviceProgress(state="sent")
    device.note(report(state, reason))
    assert device.may_take_it_later

    device.note(report("receiving"))

    assert device.state == "receiving"


def test_what_has_ended_does_not_begin_again_and_may_end_otherwise() -> None:
    device = DeviceProgress(state="sent")

    for state in ("trial", "installed", "receiving", "trial"):
        device.note(report(state))
    assert device.state == "installed"
    device.note(report("rolled_back", "operator"))
    assert (device.state, device.reason) == ("rolled_back", "operator")


def test_the_file_is_read_as_it_was_written_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    progress_file.save(path, progress("sent", "failed"))
    assert Progress.model_validate_json(path.read_bytes()) == progress("sent", "failed")

    with pytest.raises(DeliveryError, match="cannot write"):
        progress_file.save(tmp_path / "missing" / "state.json", progress())
