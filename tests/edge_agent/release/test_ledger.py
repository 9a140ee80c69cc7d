"""What the ledger says a release costs, and that no order of contributions takes an image past its budget."""

import json
import math
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image as Pictures

from diffusion import privacy
from diffusion.split import Cut
from edge_agent.errors import BudgetExceeded
from edge_agent.link import contract
from edge_agent.release import contribution, ledger, statement
from edge_agent.release.batch import ReleasedBatch
from edge_agent.release.images import Image
from edge_agent.settings import EdgeSettings
from edge_agent.storage.journal import Journal
from edge_agent.storage.reconciliation import reconcile
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.agents import collafuse, edge_json
from tests.edge_agent.rounds import SCHEDULE, opened_round

MakeSettings = Callable[..., EdgeSettings]
SECRET = bytes(range(32))
WIDEST = 8.0
"""The norm of an 8×8 image whose values are all at the bound."""


def source(count: int = 1, seed: int = 0) -> list[Image]:
    values = np.random.default_rng(seed).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32)
    return [Image(str(number), x0, None) for number, x0 in enumerate(values)]


def price(cut_ratio: float, clip_norm: float | None = None) -> float:
    bound = privacy.norm_bound(clip_norm, (1, 8, 8))
    return privacy.gdp_mu(bound, Cut(SCHEDULE, cut_ratio).t_cut, SCHEDULE)


def epsilon_of(*prices: float, delta: float = 1e-5) -> float:
    return privacy.epsilon_of_mu(math.sqrt(sum(mu**2 for mu in prices)), delta)


def forget_prices(spool: Spool) -> None:
    """Rows as they were before prices were kept, in the ledger and in the journal."""
    Journal.of(spool).path.unlink()
    with spool.transaction() as transaction:
        transaction.execute("UPDATE ledger SET mu = NULL, clip_norm = NULL, norm_bound = NULL")


def test_the_price_of_a_release_is_the_one_that_was_calculated_by_hand(spool: Spool) -> None:
    """C = 10, t_c = 690 of the linear schedule's 1000, δ = 1e-5: ε = 8.77."""
    settings = EdgeSettings(schedule="linear", cut_ratio=0.69, clip_norm=10.0)
    images = [Image("wide", np.ones((1, 16, 16), np.float32), None)]

    contribution.contribute(spool, images, SECRET, settings)

    assert ledger.summary(spool, settings)["epsilon_max"] == pytest.approx(8.77, abs=0.005)
    (row,) = spool.rows("SELECT clip_norm, norm_bound, t_cut FROM ledger")
    assert tuple(row) == (10.0, 10.0, 690)


def test_an_account_adds_the_squares_of_prices_at_different_cuts_and_norms(
    spool: Spool, settings: MakeSettings
) -> None:
    contribution.contribute(spool, source(2), SECRET, settings(cut_ratio=0.4))
    contribution.contribute(spool, source(1), SECRET, settings(cut_ratio=0.6, releases=2, clip_norm=3.0))

    first, second = ledger.accounts(spool, settings(), limit=9)

    assert (first.releases, first.cuts) == (2, (80, 120))
    assert first.image == privacy.image_digest(source(1)[0].x0)
    assert first.epsilon == pytest.approx(epsilon_of(price(0.4), price(0.6, 3.0)))
    assert (second.releases, second.cuts) == (1, (80,))
    assert second.mu == pytest.approx(price(0.4))
    assert ledger.accounts(spool, settings(), limit=1) == [first]
    assert ledger.accounts(spool, settings(), limit=9, images=[second.image]) == [second]
    total = ledger.summary(spool, settings())
    assert (total["images"], total["releases"], total["epsilon_max"]) == (2, 3, first.epsilon)


def test_the_account_survives_a_restart_and_the_loss_of_what_was_sent(
    state: StateDirectory, settings: MakeSettings
) -> None:
    with Spool(state.spool) as spool:
        contribution.contribute(spool, source(3), SECRET, settings())
        before = ledger.accounts(spool, settings(), limit=9)
        with spool.transaction() as transaction:
            transaction.execute("DELETE FROM outbox")
    with Spool(state.spool, verify=True) as spool:
        assert ledger.accounts(spool, settings(), limit=9) == before


def test_an_empty_ledger_promises_nothing_and_has_cost_nothing(spool: Spool, settings: MakeSettings) -> None:
    total = ledger.summary(spool, settings())

    assert total == {
        "images": 0,
        "releases": 0,
        "epsilon_max": None,
        "delta": 1e-5,
        "epsilon_budget": None,
        "refused": 0,
        "unknown": 0,
        "incomplete_since": None,
        "loss_acknowledged": False,
    }


def test_rows_from_before_prices_were_kept_get_the_highest_that_is_possible(
    spool: Spool, settings: MakeSettings
) -> None:
    contribution.contribute(spool, source(1), SECRET, settings(clip_norm=2.0))
    forget_prices(spool)

    unknown = ledger.summary(spool, settings())
    assert (unknown["epsilon_max"], unknown["unknown"]) == (None, 1)
    assert ledger.accounts(spool, settings(), limit=9)[0].epsilon == math.inf
    wider = [Image("wider", np.ones((1, 16, 16), np.float32), None)]
    contribution.contribute(spool, wider, SECRET, settings())
    assert ledger.summary(spool, settings())["unknown"] == 1, "only the image itself says what shape it has"
    contribution.contribute(spool, source(1), SECRET, settings(), None)
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM ledger WHERE image = ?", (privacy.image_digest(wider[0].x0),))

    (account,) = ledger.accounts(spool, settings(), limit=9)
    assert account.mu == pytest.approx(price(0.3))
    assert ledger.summary(spool, settings())["unknown"] == 0


def test_a_release_whose_price_nobody_can_tell_uses_up_the_budget(
    spool: Spool, settings: MakeSettings
) -> None:
    contribution.contribute(spool, source(1), SECRET, settings())
    forget_prices(spool)
    with spool.transaction() as transaction:
        transaction.execute("UPDATE ledger SET schedule_id = ?", ("0" * 16,))

    summary = contribution.contribute(
        spool, source(2), SECRET, settings(cut_ratio=0.9, releases=2, epsilon_budget=1e6)
    )

    assert (summary.released, summary.refused) == (2, 1)


def test_past_the_budget_nothing_is_noised_and_it_is_said_why(
    spool: Spool, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = epsilon_of(price(0.5), price(0.5)) * 1.01
    careful = settings(cut_ratio=0.5, releases=5, epsilon_budget=budget)
    noised: list[int] = []
    noise = privacy.release_noise

    def counting(*arguments: Any, **names: Any) -> Any:
        noised.append(1)
        return noise(*arguments, **names)

    monkeypatch.setattr(privacy, "release_noise", counting)

    summary = contribution.contribute(spool, source(4), SECRET, careful)

    assert (summary.released, summary.refused) == (8, 12)
    assert len(noised) == 8
    assert summary.reason is not None
    assert "12 releases were refused" in summary.reason
    assert "raise cut_ratio" in summary.reason
    again = contribution.contribute(spool, source(4), SECRET, careful)
    assert (again.released, again.refused) == (0, 12)
    assert ledger.summary(spool, careful)["refused"] == 24
    assert ledger.summary(spool, careful)["epsilon_max"] <= budget


def test_the_budget_is_asked_again_where_the_release_is_written_down(
    spool: Spool, settings: MakeSettings
) -> None:
    """Two processes may both have found room for one release more."""
    careful = settings(epsilon_budget=epsilon_of(price(0.3)) * 1.01)
    (image,) = source(1)
    cut = Cut(SCHEDULE, 0.3)
    batches = [
        ReleasedBatch.of([privacy.release(cut, image.x0, SECRET, index)], "float16") for index in range(2)
    ]
    with spool.transaction() as transaction:
        contribution.accept_batch(transaction, Journal.of(spool), batches[0], careful)

    with (
        pytest.raises(BudgetExceeded, match=r"release 1 of image \w{12} was refused"),
        spool.transaction() as transaction,
    ):
        contribution.accept_batch(transaction, Journal.of(spool), batches[1], careful)

    assert ledger.summary(spool, careful)["releases"] == 1
    assert spool.rows("SELECT count(*) FROM outbox")[0][0] == 1


def accept_many(path: Path, settings: EdgeSettings, indices: range) -> None:
    (image,) = source(1)
    with Spool(path) as spool:
        for index in indices:
            batch = ReleasedBatch.of(
                [privacy.release(Cut(SCHEDULE, 0.3), image.x0, SECRET, index)], "float16"
            )
            try:
                with spool.transaction() as transaction:
                    contribution.accept_batch(transaction, Journal.of(spool), batch, settings)
            except BudgetExceeded:
                continue


def test_two_processes_share_one_budget(state: StateDirectory, settings: MakeSettings) -> None:
    bears = 7
    careful = settings(epsilon_budget=epsilon_of(*[price(0.3)] * bears) * 1.001)
    Spool(state.spool).close()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=accept_many, args=(state.spool, careful, range(first, 20, 2)))
        for first in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_SECONDS)

    assert [process.exitcode for process in processes] == [0, 0]
    with Spool(state.spool) as spool:
        assert ledger.summary(spool, careful)["releases"] == bears


def test_a_spool_that_was_lost_leaves_prices_and_budget_as_they_were(
    state: StateDirectory, settings: MakeSettings
) -> None:
    careful = settings(releases=3, epsilon_budget=epsilon_of(price(0.3), price(0.3)) * 1.01)
    with Spool(state.spool) as spool:
        contribution.contribute(spool, source(2), SECRET, careful)
        before = ledger.accounts(spool, careful, limit=9)
        sent = {row[0] for row in spool.rows("SELECT message_id FROM outbox")}
    for file in state.path.glob("spool.sqlite3*"):
        file.unlink()

    with Spool(state.spool) as spool:
        elsewhere = settings(releases=3, cut_ratio=0.4, epsilon_budget=careful.epsilon_budget)
        assert contribution.contribute(spool, source(2), SECRET, elsewhere).released == 0
        assert {a.epsilon for a in ledger.accounts(spool, careful, limit=9)} == {a.epsilon for a in before}
        again = contribution.contribute(spool, source(2), SECRET, careful)

        assert (again.released, again.refused) == (4, 2), "the same bytes once more cost nothing"
        assert {row[0] for row in spool.rows("SELECT message_id FROM outbox")} == sent
        assert {a.epsilon for a in ledger.accounts(spool, careful, limit=9)} == {a.epsilon for a in before}


def lose_the_spool(state: StateDirectory) -> None:
    for file in state.path.glob("spool.sqlite3*"):
        file.unlink()


def test_the_same_bytes_again_with_a_smaller_norm_cost_what_they_did(
    state: StateDirectory, settings: MakeSettings
) -> None:
    """An image within the smaller norm comes out the same; that it was not promised then is what counts."""
    with Spool(state.spool) as spool:
        contribution.contribute(spool, source(2), SECRET, settings())
        before = ledger.accounts(spool, settings(), limit=9)

    for clip_norm in (7.9, 7.5):
        lose_the_spool(state)
        with Spool(state.spool) as spool:
            again = contribution.contribute(spool, source(2), SECRET, settings(clip_norm=clip_norm))
            assert again.released == 2
            assert ledger.accounts(spool, settings(), limit=9) == before


def test_the_same_bytes_again_with_a_larger_norm_cost_the_difference(
    state: StateDirectory, settings: MakeSettings
) -> None:
    with Spool(state.spool) as spool:
        contribution.contribute(spool, source(1), SECRET, settings(clip_norm=7.0))
    lose_the_spool(state)

    with Spool(state.spool) as spool:
        careful = settings(epsilon_budget=epsilon_of(price(0.3, 7.0)) * 1.001)
        assert contribution.contribute(spool, source(1), SECRET, careful).refused == 1
        assert contribution.contribute(spool, source(1), SECRET, settings()).released == 1
        assert ledger.accounts(spool, settings(), limit=9)[0].mu == pytest.approx(price(0.3))
    lose_the_spool(state)
    with Spool(state.spool) as spool:
        reconcile(spool)
        assert ledger.accounts(spool, settings(), limit=9)[0].mu == pytest.approx(price(0.3))


def test_showing_the_ledger_gives_no_price_to_rows_without_one(
    state: StateDirectory, settings: MakeSettings
) -> None:
    """The shape of today's round says nothing of images that were released before it."""
    with Spool(state.spool) as spool:
        contribution.contribute(spool, source(1), SECRET, settings())
        forget_prices(spool)
        with spool.transaction() as transaction:
            contract.store(transaction, opened_round())

    told = edge_json("ledger", "--state", state.path)

    assert (told["unknown"], told["epsilon_max"]) == (1, None)


def test_a_secret_that_is_gone_is_not_replaced_in_silence(tmp_path: Path, folder: Path) -> None:
    options = (folder, "--config", config(tmp_path), "--state", tmp_path / "edge", "--cut-ratio", 0.3)
    assert collafuse("edge", "contribute", *options).returncode == 0
    (tmp_path / "edge" / "secret").unlink()

    refused = collafuse("edge", "contribute", *options, "--releases", 2)

    assert refused.returncode != 0
    assert "restore it from a backup" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "edge" / "secret").exists()
    told = edge_json("contribute", *options, "--releases", 2, "--new-secret")
    assert told["released"] == 10


RUNS = st.lists(
    st.tuples(
        st.sampled_from([0.2, 0.35, 0.5, 0.8]),
        st.integers(1, 4),
        st.sampled_from([None, 1.0, 4.0]),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=6,
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(runs=RUNS, budget=st.one_of(st.none(), st.floats(1, 300)))
def test_whatever_the_order_of_contributions_no_budget_is_passed_and_no_epsilon_falls(
    runs: list[tuple[float, int, float | None, int]], budget: float | None
) -> None:
    with tempfile.TemporaryDirectory() as directory, Spool(Path(directory) / "spool.sqlite3") as spool:
        before: dict[str, float] = {}
        for cut_ratio, releases, clip_norm, count in runs:
            settings = EdgeSettings(
                schedule_steps=200,
                cut_ratio=cut_ratio,
                releases=releases,
                clip_norm=clip_norm,
                epsilon_budget=budget,
            )
            summary = contribution.contribute(spool, source(count), SECRET, settings)
            after = {account.image: account.epsilon for account in ledger.accounts(spool, settings, limit=99)}
            assert all(after[image] >= epsilon for image, epsilon in before.items())
            assert (after != before) == (summary.released > 0)
            if budget is None:
                assert summary.refused == 0
            else:
                assert all(epsilon <= budget * (1 + 1e-8) for epsilon in after.values())
            before = after


@pytest.fixture
def folder(tmp_path: Path, pictures: np.ndarray) -> Path:
    np.savez(tmp_path / "data.npz", images=pictures)
    return tmp_path / "data.npz"


def config(tmp_path: Path, **values: float) -> Path:
    path = tmp_path / "device.toml"
    path.write_text("schedule_steps = 200\n" + "".join(f"{key} = {value}\n" for key, value in values.items()))
    return path


def test_the_command_shows_each_image_and_says_when_epsilon_promises_nothing(
    tmp_path: Path, folder: Path
) -> None:
    options = ("--config", config(tmp_path), "--state", tmp_path / "edge")
    assert "nothing was released" in collafuse("edge", "ledger", *options).stdout
    collafuse("edge", "contribute", folder, "--cut-ratio", 0.3, *options)

    shown = collafuse("edge", "ledger", "--limit", 4, "--group", 5, *options)

    assert shown.returncode == 0, shown.stderr
    assert "promises nothing" in shown.stdout
    assert "10 images, 10 releases" in shown.stdout
    assert "Somebody who is on 5 of the images" in shown.stdout
    told = edge_json("ledger", "--limit", 4, "--group", 5, *options)
    assert len(told["accounts"]) == 4
    assert all(f"{account['image'][:12]}" in shown.stdout for account in told["accounts"])
    assert told["accounts"][0]["epsilon"] == pytest.approx(epsilon_of(price(0.3)))
    assert told["epsilon_group"] == pytest.approx(epsilon_of(*[price(0.3)] * 5))


def test_the_command_finds_the_account_of_a_picture(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        grey = np.full((8, 8), 40 * number, np.uint8)
        Pictures.fromarray(grey).save(pictures / f"{number}.png")
    other = tmp_path / "other.png"
    Pictures.fromarray(np.full((8, 8), 250, np.uint8)).save(other)
    options = ("--config", config(tmp_path), "--state", tmp_path / "edge")
    collafuse("edge", "contribute", pictures, *options)

    (found,) = edge_json("ledger", "--image", pictures / "1.png", *options)["accounts"]

    x0 = np.full((1, 8, 8), 40, np.float32) / np.float32(127.5) - np.float32(1)
    assert found["image"] == privacy.image_digest(x0)
    assert edge_json("ledger", "--image", other, *options)["accounts"] == []
    assert "never released" in collafuse("edge", "ledger", "--image", other, *options).stdout


def test_a_contribution_that_the_budget_forbids_altogether_fails_in_one_line(
    tmp_path: Path, folder: Path
) -> None:
    options = ("--config", config(tmp_path, epsilon_budget=1.0), "--state", tmp_path / "edge")

    refused = collafuse("edge", "contribute", folder, *options)

    assert refused.returncode != 0
    (line,) = refused.stderr.strip().splitlines()
    assert "10 releases were refused" in line
    assert "epsilon past the budget of 1 " in line
    as_json = collafuse("edge", "contribute", folder, *options, "--json")
    assert as_json.returncode != 0
    assert json.loads(as_json.stdout)["refused"] == 10
    status = edge_json("status", *options)
    assert (status["ledger"]["releases"], status["ledger"]["refused"]) == (0, 20)


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [
        (2.0, "with odds at most 7.39 times what they were"),
        (12.0, "little of a promise"),
        (300.0, "An epsilon of 300 promises nothing"),
        (math.inf, "nothing can be promised"),
    ],
)
def test_an_epsilon_is_put_into_words(epsilon: float, words: str) -> None:
    assert words in statement.meaning(epsilon, 1e-5)
