import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from broker import codec
from broker.contract.rounds import RoundV1
from broker.contract.samples import SamplesV1
from diffusion import privacy
from diffusion.split import Cut
from edge_agent.clock import Moment
from edge_agent.errors import ContributionError, OutboxFull, StateError
from edge_agent.link import contract
from edge_agent.release import contribution
from edge_agent.release import ledger as ledgers
from edge_agent.release.contribution import Summary
from edge_agent.release.images import Image, open_images
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, contribution_lock
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.agents import collafuse
from tests.edge_agent.rounds import SCHEDULE, opened_round

MakeSettings = Callable[..., EdgeSettings]


def archive(path: Path, images: np.ndarray, labels: np.ndarray | None = None) -> Path:
    if labels is None:
        np.savez(path, images=images)
    else:
        np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def data(tmp_path: Path, pictures: np.ndarray) -> Path:
    return archive(tmp_path / "data.npz", pictures, np.arange(10) % 3)


def contribute(spool: Spool, state: StateDirectory, settings: EdgeSettings, data: Path) -> Summary:
    return contribution.contribute(spool, open_images(data), state.secret(), settings)


def messages(spool: Spool) -> list[SamplesV1]:
    found = []
    for row in spool.rows("SELECT message_id, type, body FROM outbox ORDER BY sequence"):
        message = codec.decode(row["type"], row["body"])
        assert isinstance(message, SamplesV1)
        assert row["message_id"] == codec.digest(row["body"])
        found.append(message)
    return found


def ledger(spool: Spool) -> dict[str, int]:
    total = ledgers.summary(spool, EdgeSettings())
    return {name: total[name] for name in ("images", "releases")}


def test_every_image_is_released_once_with_the_devices_own_noise(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path, pictures: np.ndarray
) -> None:
    summary = contribute(spool, state, settings(release_dtype="float32"), data)

    assert summary == Summary(images=10, released=10, released_before=0, batches=1, labels_withheld=False)
    (message,) = messages(spool)
    cut = Cut(SCHEDULE, 0.3)
    expected = np.stack([privacy.release(cut, picture, state.secret(), 0).x_c for picture in pictures])
    np.testing.assert_array_equal(message.dequantised(), expected)
    assert (message.schedule_id, message.t_cut, message.release) == (SCHEDULE.schedule_id, cut.t_cut, 0)
    assert message.labels is not None
    assert message.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_images_without_a_label_take_none_from_those_that_have_one(
    spool: Spool, state: StateDirectory, settings: MakeSettings, pictures: np.ndarray
) -> None:
    source = [
        Image(f"{number}", picture, number % 3 if number % 2 else None)
        for number, picture in enumerate(pictures)
    ]
    summary = contribution.contribute(spool, source, state.secret(), settings())

    assert (summary.released, summary.batches) == (10, 2)
    labels = [message.labels for message in messages(spool)]
    assert sorted(0 if each is None else len(each) for each in labels) == [0, 5]
    (given,) = (each for each in labels if each is not None)
    assert given.tolist() == [1, 0, 2, 1, 0]


def test_a_second_run_releases_nothing_and_says_so(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    contribute(spool, state, settings(), data)
    before = [row[0] for row in spool.rows("SELECT message_id FROM outbox")]

    again = contribute(spool, state, settings(), data)

    assert (again.released, again.released_before, again.batches) == (0, 10, 0)
    assert [row[0] for row in spool.rows("SELECT message_id FROM outbox")] == before
    assert ledger(spool) == {"images": 10, "releases": 10}


def test_neither_another_cut_nor_a_sent_message_permits_a_second_release(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    contribute(spool, state, settings(), data)
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM outbox")

    again = contribute(spool, state, settings(cut_ratio=0.4, clip_norm=2.0), data)

    assert (again.released, again.released_before) == (0, 10)
    assert messages(spool) == []


def test_only_what_is_new_is_released(
    spool: Spool, state: StateDirectory, settings: MakeSettings, tmp_path: Path, pictures: np.ndarray
) -> None:
    contribute(spool, state, settings(), archive(tmp_path / "some.npz", pictures[:6]))

    more = contribute(spool, state, settings(), archive(tmp_path / "all.npz", pictures))

    assert (more.released, more.released_before) == (4, 6)
    assert [len(message.x) for message in messages(spool)] == [6, 4]


def test_a_picture_that_lies_there_twice_is_released_once(
    spool: Spool, state: StateDirectory, settings: MakeSettings, tmp_path: Path, pictures: np.ndarray
) -> None:
    twice = archive(tmp_path / "twice.npz", np.concatenate([pictures, pictures[:3]]))

    summary = contribute(spool, state, settings(), twice)

    assert (summary.images, summary.released) == (13, 10)
    assert (summary.released_before, summary.repeated) == (0, 3)


def test_the_command_says_what_is_repeated_and_what_was_released_before(
    state: StateDirectory, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, grey in (("a", 10), ("b", 90), ("again", 10)):
        PillowImage.fromarray(np.full((8, 8), grey, np.uint8)).save(folder / f"{name}.png")
    options = (folder, "--state", state.path, "--schedule-steps", 200, "--cut-ratio", 0.3)

    first = collafuse("edge", "contribute", *options).stdout
    second = collafuse("edge", "contribute", *options).stdout

    assert "2 releases in 1 messages; released before: 0\nrepeated in this folder: 1 " in first
    assert "0 releases in 0 messages; released before: 2\nrepeated in this folder: 1 " in second


def test_more_releases_are_different_noise_and_count_up_to_the_limit(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    contribute(spool, state, settings(), data)

    summary = contribute(spool, state, settings(releases=3), data)

    assert summary.released == 20
    assert sorted(message.release for message in messages(spool)) == [0, 1, 2]
    first, second, third = (message.dequantised() for message in messages(spool))
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)
    assert ledger(spool) == {"images": 10, "releases": 30}


def test_losing_the_spool_makes_the_same_bytes_again(
    state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    made = []
    for _ in range(2):
        state.spool.unlink(missing_ok=True)
        with Spool(state.spool) as spool:
            contribute(spool, state, settings(), data)
            made.append([row[0] for row in spool.rows("SELECT message_id FROM outbox")])

    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("dtype", "side", "sizes"), [("float16", 8, [64, 64, 22]), ("float32", 64, [63, 63, 24])]
)
def test_messages_stay_small(
    spool: Spool,
    state: StateDirectory,
    settings: MakeSettings,
    tmp_path: Path,
    dtype: str,
    side: int,
    sizes: list[int],
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (150, 1, side, side)).astype(np.float32)

    contribute(spool, state, settings(release_dtype=dtype), archive(tmp_path / "many.npz", images))

    assert [len(message.x) for message in messages(spool)] == sizes
    assert max(row[0] for row in spool.rows("SELECT size_bytes FROM outbox")) <= 2**20


def test_int8_halves_the_bytes_of_float16(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path, pictures: np.ndarray
) -> None:
    contribute(spool, state, settings(release_dtype="int8"), data)

    (message,) = messages(spool)
    expected = np.stack([privacy.release(Cut(SCHEDULE, 0.3), p, state.secret(), 0).x_c for p in pictures])
    assert message.x.dtype == np.int8
    np.testing.assert_allclose(message.dequantised(), expected, atol=0.02)


def test_at_the_quota_it_stops_loudly_and_goes_on_after_a_drain(
    spool: Spool, state: StateDirectory, settings: MakeSettings, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (400, 1, 64, 64)).astype(np.float32)
    path = archive(tmp_path / "many.npz", images)
    small = settings(outbox_max_bytes=2**21)

    with pytest.raises(OutboxFull, match="the outbox is full"):
        contribute(spool, state, small, path)
    accepted = sum(len(message.x) for message in messages(spool))
    assert ledger(spool)["images"] == accepted > 0
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM outbox")

    rest = contribute(spool, state, settings(), path)

    assert rest.released_before == accepted
    assert rest.released == 400 - accepted


@pytest.mark.parametrize(
    ("round_", "changes", "message"),
    [
        (
            opened_round(schedule_id="0" * 16),
            {},
            f"schedule is {'0' * 16} .*this device's is {SCHEDULE.schedule_id}",
        ),
        (opened_round(cut_min=0.4), {}, "takes cut ratios from 0.4 to 0.5, this device is set to 0.3"),
        (opened_round(shape=(3, 8, 8)), {}, r"the server learns \(3, 8, 8\)"),
        (opened_round(num_classes=2), {}, r"has the label 2, the server knows 0\.\.1"),
        (None, {"cut_ratio": 0.0}, "a cut ratio of 0.0 would send the images as they are"),
        (None, {"cut_ratio": 1.0}, "leaves the server nothing to learn from"),
        (None, {"noise_floor": 9.0}, "below this device's floor of 9"),
    ],
)
def test_what_must_not_be_released_is_refused_before_anything_is(
    spool: Spool,
    state: StateDirectory,
    settings: MakeSettings,
    tmp_path: Path,
    pictures: np.ndarray,
    round_: RoundV1 | None,
    changes: dict[str, Any],
    message: str,
) -> None:
    if round_ is not None:
        with spool.transaction() as transaction:
            contract.store(transaction, round_)
    data = archive(tmp_path / "twos.npz", pictures, np.full(10, 2))

    with pytest.raises(ContributionError, match=message):
        contribute(spool, state, settings(**changes), data)

    assert messages(spool) == []
    assert ledger(spool) == {"images": 0, "releases": 0}


def test_labels_stay_at_home_when_nobody_asks_for_them(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(num_classes=None))

    summary = contribute(spool, state, settings(), data)

    assert summary.labels_withheld
    assert messages(spool)[0].labels is None


def test_no_more_is_released_than_the_server_can_use(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(releases_wanted=2))

    assert contribute(spool, state, settings(releases=5), data).released == 20


def test_images_whose_label_is_not_wanted_are_held_back_and_counted(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(labels_wanted=(0, 2)))

    summary = contribute(spool, state, settings(), data)

    assert (summary.images, summary.released, summary.held_back) == (10, 7, 3)
    labels = messages(spool)[0].labels
    assert labels is not None
    assert labels.tolist() == [0, 2, 0, 2, 0, 2, 0]
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(number=2))
    again = contribute(spool, state, settings(), data)
    assert (again.released, again.released_before, again.held_back) == (3, 7, 0)


def test_images_without_labels_are_held_back_when_certain_labels_are_wanted(
    spool: Spool, state: StateDirectory, settings: MakeSettings, tmp_path: Path, pictures: np.ndarray
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(labels_wanted=(0,)))

    summary = contribute(spool, state, settings(), archive(tmp_path / "bare.npz", pictures))

    assert (summary.released, summary.held_back) == (0, 10)


@pytest.mark.parametrize("changes", [{"releases_wanted": 0}, {"closes_in_seconds": 0.0}], ids=str)
def test_a_server_that_wants_nothing_more_gets_nothing_more(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path, changes: dict[str, Any]
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(**changes))

    summary = contribute(spool, state, settings(), data)

    assert (summary.released, summary.released_before, summary.held_back) == (0, 0, 10)
    assert messages(spool) == []


def test_a_round_that_is_still_open_is_answered(
    spool: Spool, state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(closes_in_seconds=3600.0))

    assert contribute(spool, state, settings(), data).released == 10


def test_a_round_closes_by_the_seconds_that_passed_and_not_by_the_wall_clock(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = opened_round(closes_in_seconds=3600.0)
    with spool.transaction() as transaction:
        contract.store(transaction, round_, Moment("boot-a", 1000.0))
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a wall clock that is decades ahead

    assert not contract.is_closed(spool, round_, Moment("boot-a", 4600.0))
    assert contract.is_closed(spool, round_, Moment("boot-a", 4601.0))
    contract.carry_age(spool, Moment("boot-a", 3000.0))
    assert not contract.is_closed(spool, round_, Moment("boot-b", 1600.0)), "2,000 s, a reboot, and 1,600 s"
    assert contract.is_closed(spool, round_, Moment("boot-b", 1601.0))


def test_two_contributions_at_once_are_not_allowed(state: StateDirectory) -> None:
    with (
        contribution_lock(state),
        pytest.raises(ContributionError, match="another contribution is running"),
        contribution_lock(state),
    ):
        pytest.fail("the lock was given twice")


def test_a_secret_that_others_can_read_is_refused(state: StateDirectory) -> None:
    assert len(state.secret()) == 32
    assert state.secret() == state.secret()
    (state.path / "secret").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        state.secret()


def test_a_shortened_secret_is_refused(state: StateDirectory) -> None:
    state.secret()
    (state.path / "secret").write_bytes(b"short")
    with pytest.raises(StateError, match="has 5 bytes instead of 32"):
        state.secret()


def contribute_and_die(state: StateDirectory, settings: EdgeSettings, data: Path, commits: int) -> None:
    """Contribute, and die at the end of transaction number `commits`, just before it is committed."""
    accept, done = contribution.accept_batch, 0

    def dying(*arguments: Any) -> None:
        nonlocal done
        accept(*arguments)
        done += 1
        if done == commits:
            os.kill(os.getpid(), signal.SIGKILL)

    patch = pytest.MonkeyPatch()
    patch.setattr(contribution, "accept_batch", dying)
    with Spool(state.spool) as spool:
        contribute(spool, state, settings, data)


def test_killed_at_every_commit_in_turn_no_image_is_lost_or_released_twice(
    state: StateDirectory, settings: MakeSettings, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (200, 1, 8, 8)).astype(np.float32)
    path = archive(tmp_path / "many.npz", images)
    context = multiprocessing.get_context("fork")
    deaths = 0
    for commits in (1, 2, 2, 3):
        process = context.Process(target=contribute_and_die, args=(state, settings(), path, commits))
        process.start()
        process.join(WAIT_SECONDS)
        deaths += process.exitcode == -signal.SIGKILL
    with Spool(state.spool, verify=True) as spool:
        contribute(spool, state, settings(), path)
        sent = [message.dequantised() for message in messages(spool)]
        assert ledger(spool) == {"images": 200, "releases": 200}
    assert deaths >= 3
    assert len(np.unique(np.concatenate(sent).reshape(200, -1), axis=0)) == 200
