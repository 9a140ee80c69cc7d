"""Trained networks are kept, found again, and never taken for one another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from evaluation.errors import DataError, RunError
from evaluation.running import trainings
from evaluation.running.federation import Federation, FederationPlan
from evaluation.running.networks import NetworkStore
from evaluation.running.trainings import BackboneTraining, Budget, LocalTraining, name_of
from tests.evaluation.tiny import PLAN, TINY

BACKBONE = BackboneTraining(0.4, Budget.backbone(TINY), seed=0)


def test_a_network_is_trained_once_and_read_back_bit_for_bit(federation: Federation, tmp_path: Path) -> None:
    store = NetworkStore(tmp_path, federation)
    told: list[int] = []
    first = store.trained(BACKBONE, lambda done, of, loss: told.append(done))
    again = store.trained(BACKBONE, lambda done, of, loss: told.append(-1))

    assert told == [1, 2, 3]
    assert first.fit == again.fit
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def test_a_training_gives_the_same_weights_again_and_another_seed_others(federation: Federation) -> None:
    def weights(seed: int) -> torch.Tensor:
        return replace(BACKBONE, seed=seed).train(federation, lambda *_: None).network.first.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_whatever_a_network_depends_on_is_in_its_name(federation: Federation) -> None:
    other_data = FederationPlan("digits", clients=2, limit=200).open(federation.schedule)
    other_chain = PLAN.open(NoiseSchedule.linear(50))
    names = {
        name_of(BACKBONE, federation),
        name_of(replace(BACKBONE, seed=1), federation),
        name_of(replace(BACKBONE, releases=2), federation),
        name_of(replace(BACKBONE, budget=replace(BACKBONE.budget, updates=4)), federation),
        name_of(LocalTraining(None, 0.4, BACKBONE.budget, 0), federation),
        name_of(BACKBONE, other_data),
        name_of(BACKBONE, other_chain),
    }
    assert len(names) == 7


def test_a_network_of_another_revision_is_another(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = name_of(BACKBONE, federation)
    monkeypatch.setattr(trainings, "REVISION", trainings.REVISION - 1)
    assert name_of(BACKBONE, federation) != now


def test_a_damaged_file_says_what_to_do(federation: Federation, tmp_path: Path) -> None:
    store = NetworkStore(tmp_path, federation)
    store.trained(BACKBONE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(RunError, match="remove the file and run again"):
        store.trained(BACKBONE)


def test_the_server_holds_releases_as_a_device_makes_them(federation: Federation) -> None:
    x_c, labels = replace(BACKBONE, releases=3).samples(federation)
    images = federation.pooled.images
    cut = Cut(federation.schedule, 0.4)

    assert x_c.shape == (3 * len(images), *federation.shape)
    assert labels.shape == (3 * len(images),)
    clean = np.concatenate([client.train.images for client in federation.clients for _ in range(3)])
    signal = np.mean(x_c * clean) / np.mean(clean**2)
    assert abs(signal - np.sqrt(federation.schedule.alpha_bar[cut.t_cut])) < 0.02
    first = federation.clients[0]
    again = federation.released(first, 0.4, seed=0)
    assert np.array_equal(again, federation.released(first, 0.4, seed=0))
    assert not np.array_equal(again[0], federation.released(first, 0.4, 2, seed=0)[1])


def test_every_seed_is_sent_other_noise_of_the_same_images(federation: Federation) -> None:
    x_c, again, other = (replace(BACKBONE, seed=seed).samples(federation)[0] for seed in (0, 0, 1))
    assert np.array_equal(x_c, again)
    alpha_bar = federation.schedule.alpha_bar[Cut(federation.schedule, 0.4).t_cut]
    # Of two independent draws the difference has twice the variance of one, and no part of the image.
    assert np.var(other - x_c) == pytest.approx(2 * (1 - alpha_bar), rel=0.03)
    held = [federation.released(federation.clients[0], 0.4, seed=seed)[0] for seed in (0, 1)]
    n = len(held[0])
    assert np.array_equal(x_c[:n], held[0])
    assert np.array_equal(other[:n], held[1])


def test_with_everything_on_the_server_it_trains_on_the_images_themselves(federation: Federation) -> None:
    x_c, _ = replace(BACKBONE, cut_ratio=0.0).samples(federation)
    assert np.array_equal(x_c, federation.pooled.images)


def test_a_head_that_would_own_nothing_is_refused(federation: Federation) -> None:
    with pytest.raises(DataError, match="owns no step"):
        LocalTraining(None, 0.0, BACKBONE.budget, 0).train(federation, lambda *_: None)


def test_a_network_that_cannot_be_kept_leaves_no_draft_behind(federation: Federation, tmp_path: Path) -> None:
    store = NetworkStore(tmp_path, federation)
    made = store.trained(BACKBONE)
    (file,) = tmp_path.iterdir()
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot keep a network"):
        store._write(file, made)
    assert list(tmp_path.iterdir()) == [file]
