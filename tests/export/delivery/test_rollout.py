"""A head reaches real devices over the real broker, share by share, and goes no further when it does badly."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
import pytest
from typer.testing import CliRunner

from broker.codec import encode
from broker.management import Management
from broker.names import reports
from broker.node.local_node import NodeInfo
from broker.topology import EXCHANGE_DOWN, device_key
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.gates import GateResult
from export.bundle.keys import PrivateKey
from export.cli import app
from export.delivery import progress as progress_file
from export.delivery.cohorts import in_cohort, place_of
from export.delivery.errors import DeliveryError, RolloutHalted, RolloutUnfinished
from export.delivery.parcel import Parcel, pack, wrap
from export.delivery.post import opened
from export.delivery.progress import DeviceProgress, Progress
from export.delivery.rollout import Plan, Rollout
from tests.conftest import wait_until
from tests.edge_agent.heads.bundles import messages, with_nan_weights, with_runs_that_fail, with_wrong_answers
from tests.export.delivery.conftest import KEY, Fleet

MakeFleet = Callable[..., Fleet]
SignedFor = Callable[..., Path]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def roll_out(fleet: Fleet, path: Path, users: list[str] | None = None, **plan: float | bool) -> Progress:
    parcel = parcel_of(path)
    values = {"percent": 100.0, "wait_seconds": 60.0, "ask_seconds": 1.0} | plan
    with opened(fleet.owner, fleet.client, with_reports=True) as post:
        return Rollout(post, parcel, path.with_suffix(".json"), None).run(
            fleet.users if users is None else users,
            Plan(**values),  # type: ignore[arg-type]  # numbers and a truth value by name
        )


def parcel_of(path: Path) -> Parcel:
    """What is sent of a bundle whatever it is: devices judge for themselves."""
    return wrap(path.read_bytes(), read_bundle(path))


def send(fleet: Fleet, path: Path, until: str, count: int | None = None) -> None:
    """Send a bundle to the first `count` devices beforehand, and wait until they all have come so far with it."""
    devices = fleet.devices[:count]
    with opened(fleet.owner, fleet.client, with_reports=False) as post:
        for device in devices:
            post.send(parcel_of(path), device_key(device.user))
    for device in devices:
        wait_until(lambda: device.has_spool, "the agent has made its spool")  # noqa: B023 - called at once
        wait_until(lambda: device.heads() == {digest(path): (until, None)}, f"it is {until}")  # noqa: B023 - called at once


def percent_for(fleet: Fleet, count: int) -> float:
    """The share of a rollout of "ward 1" that holds so many of the devices: their places come of names that are new each time."""
    places = sorted(place_of("ward", 1, user) for user in fleet.users)
    return 50 * (places[count - 1] + places[count])


def started(fleet: Fleet) -> Fleet:
    for device in fleet.devices:
        device.start()
    return fleet


def test_a_share_gets_the_head_and_a_larger_share_goes_on_from_there(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = started(fleet(5))
    path = signed_for(devices)
    parcel = parcel_of(path)
    assert parcel.announcement.chunks > 20
    percent = percent_for(devices, 2)

    some = roll_out(devices, path, percent=percent)

    assert set(some.devices) == {user for user in devices.users if in_cohort("ward", 1, user, percent)}
    assert some.count("installed") == len(some.devices) == 2
    everyone = roll_out(devices, path, percent=100)
    assert set(everyone.devices) == set(devices.users)
    assert everyone.count("installed") == 5
    assert all(device.heads() == {digest(path): ("live", None)} for device in devices.devices)
    assert sum(device.counted("head_announcements") for device in devices.devices) == 5, "nobody got it twice"


BAD = {
    "wrong_answers": with_wrong_answers,
    "run_failed": with_runs_that_fail,
}


@pytest.mark.parametrize("reason", [*BAD, "nan", "unsigned", "expired", "agent_too_old"])
def test_a_bad_head_ends_nowhere_and_halts_its_rollout(
    fleet: MakeFleet, signed_for: SignedFor, good: Bundle, reason: str
) -> None:
    devices = started(fleet(3))
    before = signed_for(devices, 1)
    assert roll_out(devices, before).count("installed") == 3
    makers = BAD | {"nan": with_nan_weights}
    said: dict[str, dict[str, Any]] = {
        "unsigned": {"key": PrivateKey.generate()},
        "expired": {"issued_at": 1, "expires_at": 1000},
        "agent_too_old": {"minimum_agent": "99.0"},
    }
    bad = signed_for(devices, 2, makers[reason](good) if reason in makers else None, **said.get(reason, {}))

    with pytest.raises(RolloutHalted, match="3 of 3 devices did not do well"):
        roll_out(devices, bad)

    told = Progress.model_validate_json(bad.with_suffix(".json").read_bytes())
    expected = "wrong_answers" if reason == "nan" else reason
    assert {device.reason for device in told.devices.values()} == {expected}
    for device in devices.devices:
        assert device.heads()[digest(before)] == ("live", None)
    with pytest.raises(RolloutHalted, match="was halted"):
        roll_out(devices, bad)


def test_devices_with_a_newer_head_keep_it_and_halt_nothing(fleet: MakeFleet, signed_for: SignedFor) -> None:
    devices = started(fleet(1))
    newer = signed_for(devices, 5)
    roll_out(devices, newer)

    found = roll_out(devices, signed_for(devices, 4), max_failures=0.0)

    assert (found.ahead, found.failures, found.halted) == (1, 0, None)
    assert not found.has_come_to_something
    assert devices.devices[0].heads()[digest(newer)] == ("live", None)


def test_a_head_with_which_nobody_comes_to_an_end_has_failed(fleet: MakeFleet, signed_for: SignedFor) -> None:
    devices = started(fleet(2, trial_seconds=3600.0))
    path = signed_for(devices)
    send(devices, path, "trial")

    with pytest.raises(RolloutHalted, match=r"2 of 2 devices did not do well with it \(trial\)"):
        roll_out(devices, path, wait_seconds=3.0)


def test_a_larger_share_waits_until_enough_of_the_smaller_one_have_the_head(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = fleet(5)
    path = signed_for(devices)
    first = roll_out(devices, path, percent=percent_for(devices, 2), wait_seconds=0.0).devices
    assert len(first) == 2

    with pytest.raises(RolloutUnfinished, match="nobody else gets"):
        roll_out(devices, path, wait_seconds=1.0)
    assert set(progress_file.load(path.with_suffix(".json"), parcel_of(path)).devices) == set(first)
    started(devices)

    assert roll_out(devices, path).count("installed") == 5


def test_going_on_after_a_halt_asks_the_devices_again_and_still_watches(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = fleet(2, inbox_max_bytes=2**20)
    path = signed_for(devices)
    with pytest.raises(RolloutHalted, match="no_room"):
        roll_out(started(devices), path)
    for device in devices.devices:
        device.stop()
        device.settings = {
            name: value for name, value in device.settings.items() if name != "inbox_max_bytes"
        }

    found = roll_out(started(devices), path, resume_halted=True)

    assert (found.count("installed"), found.halted) == (2, None)


def test_pieces_that_were_lost_are_sent_again(fleet: MakeFleet, signed_for: SignedFor) -> None:
    devices = started(fleet(1))
    path = signed_for(devices)
    parcel = parcel_of(path)
    user = devices.users[0]
    with opened(devices.owner, devices.client, with_reports=False) as post:
        post.send(parcel, device_key(user), [(0, 5), (9, 12), (13, parcel.announcement.chunks)])
    state = progress_file.load(path.with_suffix(".json"), parcel)
    state.devices[user] = DeviceProgress(state="sent")
    progress_file.save(path.with_suffix(".json"), state)

    done = roll_out(devices, path)

    assert done.devices[user].state == "installed"
    assert done.devices[user].resent == 1


def test_a_device_that_was_off_is_silent_and_a_later_run_hears_of_it(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = fleet(2)
    devices.devices[0].start()
    path = signed_for(devices)
    send(devices, path, "live", count=1)

    first = roll_out(devices, path, [*devices.users, f"{devices.client}_nobody"], wait_seconds=5.0)

    assert [first.devices[user].state for user in devices.users] == ["installed", "sent"]
    assert first.devices[f"{devices.client}_nobody"].state == "unreachable"
    devices.devices[1].start()
    assert roll_out(devices, path).count("installed") == 2


def test_a_metered_device_refuses_for_now_halts_nothing_and_gets_it_when_the_link_is_free(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = fleet(1, metered=True)
    (device,) = devices.devices
    device.start()
    path = signed_for(devices)

    first = roll_out(devices, path, wait_seconds=4.0, max_failures=0.0)
    wait_until(lambda: device.heads() == {digest(path): ("refused", "metered")}, "the device refuses it")
    assert first.open_users == [device.user], "on such a link it does not even say so"
    assert device.counted("head_chunks") == 0

    device.stop()
    device.settings = device.settings | {"metered": False}
    device.start()
    second = roll_out(devices, path, max_failures=0.0)

    assert (second.devices[device.user].state, second.halted) == ("installed", None)


def test_halted_means_that_nobody_else_gets_it_unless_the_owner_insists(
    fleet: MakeFleet, signed_for: SignedFor, good: Bundle
) -> None:
    devices = started(fleet(6))
    path = signed_for(devices, 1, with_wrong_answers(good))

    with pytest.raises(RolloutHalted):
        roll_out(devices, path, percent=percent_for(devices, 4))
    reached = len(Progress.model_validate_json(path.with_suffix(".json").read_bytes()).devices)
    with pytest.raises(RolloutHalted):
        roll_out(devices, path, percent=100)
    assert len(Progress.model_validate_json(path.with_suffix(".json").read_bytes()).devices) == reached
    with pytest.raises(RolloutHalted):
        roll_out(devices, path, percent=100, resume_halted=True)
    assert len(Progress.model_validate_json(path.with_suffix(".json").read_bytes()).devices) == 6


def test_a_stranger_who_owns_other_devices_is_dropped_whatever_he_sends(
    fleet: MakeFleet, signed_for: SignedFor, node: NodeInfo
) -> None:
    victim, stranger = started(fleet(1)), fleet(1)
    announcement, _ = messages(signed_for(victim))
    device = victim.devices[0]
    wait_until(lambda: device.has_spool, "the agent runs")
    with pika.BlockingConnection(pika.URLParameters(stranger.owner.url.get_secret_value())) as link:
        channel = link.channel()
        properties = pika.BasicProperties(
            type="bundle.v1",
            message_id="m",
            user_id=stranger.owner.user,
            headers={"CC": [device_key(victim.users[0])]},
        )
        channel.basic_publish(EXCHANGE_DOWN, device_key(stranger.users[0]), encode(announcement), properties)

    # RabbitMQ 3.10 lets the CC header through; a broker that does not has nothing for the device to count.
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as link:
        channel = link.channel()
        channel.basic_publish(
            EXCHANGE_DOWN,
            device_key(victim.users[0]),
            encode(announcement),
            pika.BasicProperties(type="bundle.v1", message_id="n"),
        )
    wait_until(lambda: device.counted("strangers") == 2, "both letters are dropped and counted")
    assert device.heads() == {}


def test_what_no_device_would_take_is_not_sent(
    fleet: MakeFleet, signed_for: SignedFor, good: Bundle, tmp_path: Path
) -> None:
    devices = fleet(1)
    damaged = tmp_path / "damaged.bundle"
    damaged.write_bytes(signed_for(devices).read_bytes()[:-3])

    def refused(path: Path, match: str, client: str = devices.client, *keys: str) -> None:
        with pytest.raises(DeliveryError, match=match):
            pack(path, client=client, keys=keys or (KEY.public.text,))

    refused(signed_for(devices, key=None), "is not signed")
    refused(signed_for(devices), "and the devices to clinic", "clinic")
    refused(
        signed_for(devices),
        "would be refused by the devices",
        devices.client,
        PrivateKey.generate().public.text,
    )
    refused(signed_for(devices), "head_keys|ed25519", devices.client, "ed25519:no")
    refused(signed_for(devices, issued_at=1, expires_at=1000), "has expired")
    refused(signed_for(devices, gates=lax_gates(good)), "differs from the trained head")
    refused(damaged, "is not a usable bundle")
    refused(tmp_path / "missing", "cannot be read")
    with pytest.raises(DeliveryError, match="whose signature the devices believe"):
        pack(signed_for(devices), client=devices.client, keys=())


def lax_gates(bundle: Bundle) -> tuple[GateResult, ...]:
    """The figures of a bundle whose maker has lowered the bar of single steps."""
    (gate, *others) = bundle.manifest.gates
    levels = (*gate.step.levels[:-1], gate.step.levels[-1].model_copy(update={"relative_rms": 0.5}))
    step = gate.step.model_copy(update={"relative_rms": 0.5, "allowed_relative_rms": 1.0, "levels": levels})
    return (gate.model_copy(update={"step": step}), *others)


def test_a_head_that_misses_its_bars_is_refused_by_the_devices_too(
    fleet: MakeFleet, signed_for: SignedFor, good: Bundle
) -> None:
    devices = started(fleet(1))

    with pytest.raises(RolloutHalted, match="gates_failed"):
        roll_out(devices, signed_for(devices, gates=lax_gates(good)))


def test_a_parcel_is_its_file(fleet: MakeFleet, signed_for: SignedFor) -> None:
    devices = fleet(1)
    path = signed_for(devices)
    parcel = parcel_of(path)

    assert b"".join(chunk.content for chunk in parcel.chunks()) == path.read_bytes()
    assert [chunk.index for chunk in parcel.chunks([(2, 4), (20, 10**6)])][:3] == [2, 3, 20]


def test_the_commands_send_watch_and_say_what_came_of_it(
    fleet: MakeFleet, signed_for: SignedFor, good: Bundle, tmp_path: Path
) -> None:
    devices = started(fleet(2))
    names = tmp_path / "devices"
    names.write_text("# the two\nd0\n" + f"{devices.users[1]} # by its user\n")
    path = signed_for(devices)
    common = ["--config", str(devices.config)]

    unjudged = CliRunner().invoke(app, ["publish", str(path), *common, "--device", "d0"])
    assert "whose signature the devices believe" in str(unjudged.exception)
    with devices.config.open("a") as file:
        file.write(f'head_keys = ["{KEY.public.text}"]\n')
    sent = CliRunner().invoke(app, ["publish", str(path), *common, "--device", "d0"])
    assert sent.exit_code == 0, sent.output
    assert "is on its way to 1 devices" in sent.output
    wait_until(lambda: digest(path) in devices.devices[0].heads(), "the first device gets it")
    done = CliRunner().invoke(
        app, ["rollout", str(path), *common, "--devices", str(names), "--percent", "100", "--json"]
    )

    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["sent"], facts["installed"], facts["silent"]) == (2, 2, 0)
    nobody = CliRunner().invoke(app, ["publish", str(path), *common])
    assert "--device NAME, --devices FILE or --all" in str(nobody.exception)


def test_a_device_that_is_not_there_keeps_the_head_from_nobody_else(
    fleet: MakeFleet, signed_for: SignedFor
) -> None:
    devices = fleet(1)
    path = signed_for(devices)
    common = ["--config", str(devices.config), "--key", KEY.public.text]

    sent = CliRunner().invoke(app, ["publish", str(path), *common, "--device", "nobody", "--device", "d0"])

    assert sent.exit_code != 0
    assert isinstance(sent.exception, DeliveryError)
    assert "was not sent to 1 of 2" in str(sent.exception)
    assert f"not sent to {devices.client}_nobody" in sent.output
    assert "is on its way to 1 devices" in sent.output
    started(devices)
    (device,) = devices.devices
    wait_until(lambda: device.has_spool, "the agent has made its spool")
    wait_until(lambda: digest(path) in device.heads(), "the other one gets it")


def test_a_rollout_that_came_to_nothing_says_so_by_its_exit_code(
    fleet: MakeFleet, signed_for: SignedFor, tmp_path: Path
) -> None:
    devices = fleet(1)
    names = tmp_path / "devices"
    names.write_text("d0\n")
    words = [
        "--config",
        str(devices.config),
        "--key",
        KEY.public.text,
        "--devices",
        str(names),
        "--percent",
        "100",
    ]

    done = CliRunner().invoke(app, ["rollout", str(signed_for(devices)), *words, "--wait", "1", "--json"])

    assert isinstance(done.exception, RolloutUnfinished)
    assert json.loads(done.stdout.splitlines()[-1])["silent"] == 1


def test_a_share_to_which_nobody_belongs_is_said(
    fleet: MakeFleet, signed_for: SignedFor, tmp_path: Path
) -> None:
    devices = fleet(1)
    names = tmp_path / "devices"
    names.write_text("d0\n")
    words = ["--config", str(devices.config), "--key", KEY.public.text, "--devices", str(names)]

    done = CliRunner().invoke(app, ["rollout", str(signed_for(devices)), *words, "--percent", "0"])

    assert done.exit_code == 0, "the next step, with a larger share, is to be taken"
    assert "sent to 0 of 1 devices" in done.stdout
    assert "none of them belongs to this share" in done.stderr


def test_two_rollouts_of_one_client_do_not_share_its_reports(fleet: MakeFleet, signed_for: SignedFor) -> None:
    devices = fleet(1)
    with (
        opened(devices.owner, devices.client, with_reports=True),
        pytest.raises(DeliveryError, match="somebody else reads the reports"),
        opened(devices.owner, devices.client, with_reports=True, patience_seconds=3.0),
    ):
        pass
    with opened(devices.owner, devices.client, with_reports=True) as post:
        path = signed_for(devices)
        state = path.with_suffix(".json")
        with (
            progress_file.locked(state),
            pytest.raises(DeliveryError, match="another rollout is at work with"),
        ):
            Rollout(post, parcel_of(path), state).run(devices.users, Plan(100.0, wait_seconds=0.0))


def test_reports_that_are_gone_are_said_with_what_to_do(fleet: MakeFleet, node: NodeInfo) -> None:
    devices = fleet(1)
    with Management(node.management_url, node.user, node.password) as management:
        management.delete_queue(node.vhost, reports(devices.client))

    with (
        pytest.raises(DeliveryError, match=f"collafuse broker owner {devices.client} --reports"),
        opened(devices.owner, devices.client, with_reports=True, patience_seconds=3.0),
    ):
        pass
