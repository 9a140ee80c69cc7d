import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from PIL import Image as PillowImage

from diffusion.noise import initial_noise
from edge_agent import clock
from edge_agent.errors import SpoolFull, StateError
from edge_agent.generation import finishing, jobs, lifecycle, results
from edge_agent.generation.finishing import Interrupted
from edge_agent.heads.energy import EnergyMeter, image_joules
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.export.heads import SCHEDULE

Finish = Callable[..., Path]


@pytest.fixture
def slot(whole_head: Path) -> HeadSlot:
    """With a head of the whole chain, which needs no server."""
    slot = HeadSlot(whole_head, "cpu", 1)
    slot.refresh()
    return slot


@pytest.fixture
def finish(
    spool: Spool, state: StateDirectory, settings: Callable[..., EdgeSettings], slot: HeadSlot
) -> Finish:
    """Make a job's pictures, and return their folder."""

    def make(
        count: int, energy: EnergyMeter | None = None, ttl_seconds: float | None = None, **options: Any
    ) -> Path:
        job_id = jobs.accept(spool, count=count, label=1, seed=4, ttl_seconds=ttl_seconds, moment=clock.now())
        job = jobs.find(spool, job_id)
        assert job is not None
        assert lifecycle.start(spool, job, settings(), slot, head_steps=3)
        started = jobs.find(spool, job_id)
        assert started is not None
        finishing.finish(
            spool, started, state, slot, **({"stopping": lambda: False} | options), energy=energy
        )
        return state.results(job_id)

    return make


def test_every_step_from_the_cut_to_the_picture_is_kept_as_pixels(finish: Finish) -> None:
    folder = finish(18)

    steps = np.load(folder / "steps.npy")
    images, latents = np.load(folder / "images.npy"), np.load(folder / "latents.npy")
    assert (steps.shape, steps.dtype) == ((18, 4, 8, 8), np.uint8)
    for index in range(18):
        np.testing.assert_array_equal(steps[index, 0], results.as_pixels(latents[index]))
        np.testing.assert_array_equal(steps[index, -1], results.as_pixels(images[index]))
        picture = np.asarray(PillowImage.open(folder / f"{index:05d}.png"))
        np.testing.assert_array_equal(steps[index, -1], picture)
    assert all((steps[:, place] != steps[:, place + 1]).any() for place in range(3))


def test_a_jobs_facts_are_enough_to_make_its_pictures_again(finish: Finish, whole_head: Path) -> None:
    folder = finish(2, EnergyMeter(power_watts=3.0))

    facts = json.loads((folder / "job.json").read_text())
    images = facts.pop("images")
    assert facts.pop("job_id") == folder.name
    assert facts.pop("head").startswith("ward-")
    seconds, joules = facts.pop("head_seconds"), facts.pop("joules")
    assert joules == pytest.approx(3.0 * seconds, rel=1e-3, abs=1e-5)
    assert facts == {
        "seed": 4,
        "seeded": True,
        "label": 1,
        "source": "local",
        "backbone_version": None,
        "schedule_id": SCHEDULE.schedule_id,
        "server_plan": [200],
        "head_plan": [200, 133, 67, 0],
        "sampler": "ddim",
        "eta": 0.0,
        "clip": 1.0,
        "joules_are": "estimated",
    }
    assert images == [{"seed": 4, "sample": sample, "backbone_version": None} for sample in (0, 1)]
    noise = initial_noise(np.array([4, 4]), np.array([0, 1]), SCHEDULE.T, (1, 8, 8))
    np.testing.assert_array_equal(np.load(folder / "latents.npy"), noise)


def test_the_energy_of_an_image_is_the_mean_over_all_of_which_it_is_known(
    finish: Finish, spool: Spool
) -> None:
    assert image_joules(spool) is None
    finish(1)
    assert image_joules(spool) is None

    # So many watts that milliseconds of the head's work are joules.
    known = [
        json.loads((finish(count, EnergyMeter(power_watts=1e4)) / "job.json").read_text()) for count in (1, 3)
    ]
    assert image_joules(spool) == pytest.approx(sum(facts["joules"] for facts in known) / 4, abs=1e-3)


def test_steps_of_which_there_are_too_many_are_not_kept(
    finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "STEPS_MAX_BYTES", 2 * 4 * 64)
    assert (finish(2) / "steps.npy").exists()
    assert not (finish(3) / "steps.npy").exists()


def test_colours_are_kept_last_as_in_a_picture() -> None:
    room = results.room_for_steps(5, (2, 3, 8, 4))
    assert room is not None
    assert room.shape == (2, 5, 8, 4, 3)


def test_every_step_of_the_head_is_told_with_its_number_of_images(finish: Finish) -> None:
    told: list[int] = []
    finish(18, on_step=lambda images, seconds: told.append(images if seconds > 0 else 0))
    assert told == [16, 16, 16, 2, 2, 2]


def test_a_stopping_agent_leaves_the_job_as_it_is(finish: Finish, spool: Spool) -> None:
    with pytest.raises(Interrupted):
        finish(2, stopping=lambda: True)
    assert jobs.counts(spool) == {"finishing": 1}


def test_a_stop_is_heard_between_two_steps(finish: Finish, spool: Spool) -> None:
    told: list[int] = []
    with pytest.raises(Interrupted):
        finish(18, stopping=lambda: bool(told), on_step=lambda images, _: told.append(images))
    assert told == [16]
    assert jobs.counts(spool) == {"finishing": 1}


def test_a_cancelled_job_takes_no_further_step(finish: Finish, spool: Spool) -> None:
    told: list[int] = []

    def cancel(images: int, _seconds: float) -> None:
        told.append(images)
        jobs.cancel(spool, jobs.unfinished(spool)[0].job_id)

    with structlog.testing.capture_logs() as logs:
        assert not finish(18, on_step=cancel).exists()
    assert told == [16]
    assert [line["event"] for line in logs] == ["job_started", "job_cancelled"]


def test_a_job_that_runs_out_of_time_takes_no_further_step(
    finish: Finish, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []

    def pass_a_minute(images: int, _seconds: float) -> None:
        told.append(images)
        later = replace(clock.now(), seconds=clock.now().seconds + 60)
        monkeypatch.setattr(clock, "now", lambda: later)

    assert not finish(18, ttl_seconds=50, on_step=pass_a_minute).exists()
    assert told == [16]
    assert jobs.expire(spool, clock.now()) == 1


def test_a_job_cancelled_while_its_pictures_are_written_is_not_called_completed(
    finish: Finish, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = results.save

    def cancel_and_save(state: StateDirectory, job_id: str, *arrays: Any, **more: Any) -> None:
        jobs.cancel(spool, job_id)
        save(state, job_id, *arrays, **more)

    monkeypatch.setattr(results, "save", cancel_and_save)
    with structlog.testing.capture_logs() as logs:
        assert not finish(2).exists()
    assert [line["event"] for line in logs] == ["job_started", "job_cancelled"]


def test_a_job_whose_pictures_find_no_room_is_not_begun_and_not_failed(
    finish: Finish, spool: Spool, state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        SpoolFull, match=r"the disk is full: the pictures cannot be written .*free some space"
    ):
        results.check_room(state, "a", (10**9, 3, 64, 64), 5)
    results.check_room(state, "a", (2, 1, 8, 8), 5)

    monkeypatch.setattr(results, "_BLOCK_BYTES", 2**60)
    told: list[int] = []
    with pytest.raises(SpoolFull):
        finish(2, on_step=lambda images, _: told.append(images))

    assert told == []
    assert jobs.counts(spool) == {"finishing": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_disk_that_fills_up_while_pictures_are_written_leaves_the_job_and_no_half_pictures(
    finish: Finish, spool: Spool, state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_write_picture", lambda *_: Path("/dev/full").write_bytes(b"x"))
    with pytest.raises(SpoolFull, match="the disk is full"):
        finish(2)

    assert list(state.results("any").parent.iterdir()) == []
    (job,) = jobs.unfinished(spool, "finishing")
    assert job.recipe is not None


def test_a_folder_for_the_pictures_is_made_and_tried_before_anything_else(tmp_path: Path) -> None:
    results.prepare(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"cannot be copied to .*choose another folder with --out"):
        results.prepare(tmp_path / "file")
