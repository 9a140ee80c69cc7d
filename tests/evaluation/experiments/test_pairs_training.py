"""Training on the papers' pairs: a fresh one of every image in every epoch."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from diffusion.split import Cut
from evaluation.experiments.releases.pairs_training import PairsTraining, epochs_of
from evaluation.running.federation import Federation
from evaluation.running.trainings import BackboneTraining, Budget, name_of
from tests.evaluation.tiny import TINY

TRAINING = PairsTraining(0.4, Budget.backbone(TINY), seed=3)


@pytest.mark.parametrize(
    ("updates", "images", "epochs"), [(10, 80, 1), (10, 79, 2), (11, 80, 2), (1, 800, 1)]
)
def test_an_epoch_that_was_begun_was_sent(updates: int, images: int, epochs: int) -> None:
    assert epochs_of(Budget(8, updates, 8, 1e-3), images) == epochs


def test_every_image_is_learned_from_once_in_an_epoch_by_that_epochs_release(federation: Federation) -> None:
    cut = Cut(federation.schedule, 0.4)
    n = len(federation.pooled)
    stream = TRAINING.samples(federation)
    alpha_bar = federation.schedule.alpha_bar
    for epoch in range(2):
        x_t, noise, t, labels = (torch.stack(part) for part in zip(*islice(stream, n), strict=True))
        assert sorted(labels.tolist()) == sorted(federation.pooled.labels.tolist())
        r = torch.from_numpy(alpha_bar[t.numpy()] / alpha_bar[cut.t_cut])[:, None, None, None]
        x_c = ((x_t - (1 - r).sqrt() * noise) / r.sqrt())[t < 40].numpy()
        made = np.stack(
            [
                one.x_c
                for client in federation.clients
                for one in federation.releases(client, 0.4, epoch, seed=TRAINING.seed)
            ]
        )
        nearest = np.abs(x_c[:, None] - made[None]).max(axis=(2, 3, 4))
        assert nearest.min(axis=1).max() < 1e-4  # what can be computed from a pair is a release of this epoch
        assert len(set(nearest.argmin(axis=1).tolist())) == len(x_c)


def test_a_training_comes_out_the_same_and_is_no_other_training(federation: Federation) -> None:
    def weights(seed: int) -> torch.Tensor:
        return replace(TRAINING, seed=seed).train(federation, lambda *_: None).network.first.weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    backbone = BackboneTraining(0.4, Budget.backbone(TINY), seed=0)
    assert name_of(TRAINING, federation) != name_of(backbone, federation)
