"""Who attacks what: the images under attack, the attacker's own, and what the server holds at a cut."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffusion.network import UNet
from diffusion.split import Cut
from evaluation.attacks.prior import shrunk_prior
from evaluation.data.images import ClientData, LabelledImages, concatenate
from evaluation.experiments.attacks.trainings import MemorisedTraining, ReconstructorTraining, own_images
from evaluation.metrics.disclosure import Prior
from evaluation.running.design import Design
from evaluation.running.trainings import BackboneTraining, Budget
from evaluation.running.workbench import Workbench

MOST_ATTACKED = 512


def trainings_of(
    design: Design,
) -> tuple[list[BackboneTraining], list[ReconstructorTraining], list[MemorisedTraining]]:
    """Every network of the attacks: the backbones of the cuts, an attacker's network for each seed, the overfitted ones.

    The backbones are those of the cut sweep. What an attacker spends on its network is what the server spends on one.
    """
    budget = Budget.backbone(design)
    backbones = [
        BackboneTraining(cut, budget, seed) for cut in design.cuts if cut < 1 for seed in design.seeds
    ]
    hidden = tuple(cut for cut in design.cuts if cut > 0)
    return (
        backbones,
        [ReconstructorTraining(hidden, budget, seed) for seed in design.seeds],
        [
            MemorisedTraining(0.0, budget, design.seeds[0]),
            *(MemorisedTraining(design.main_cut, budget, seed) for seed in design.seeds),
        ],
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """One federation under attack.

    At the cuts 0 and 1, where nothing is released in the real system, stand the controls: the clean images, and what lies on
    the chain at T, which is noise.
    """

    bench: Workbench

    @cached_property
    def own(self) -> LabelledImages:
        """The attacker's own images."""
        return own_images(self.bench.federation)

    @cached_property
    def prior(self) -> Prior:
        """What the attacker knows of images beforehand."""
        return shrunk_prior(self.own.images)

    def attacked(self, seed: int) -> "Attacked":
        """Half of the training images, another half for every seed, and no more than 512."""
        pooled = self.bench.federation.pooled
        most = max(2, min(MOST_ATTACKED, len(pooled) // 2))
        return Attacked(
            self, np.sort(np.random.default_rng((seed, 11)).permutation(len(pooled))[:most]), seed
        )

    def alpha_bar(self, cut_ratio: float) -> float:
        """ᾱ at a cut."""
        return float(self.bench.schedule.alpha_bar[self.bench.t_cut(cut_ratio)])

    def backbone(self, cut_ratio: float, seed: int) -> UNet:
        """What the server has trained at this cut."""
        budget = Budget.backbone(self.bench.design)
        return self.bench.network(BackboneTraining(cut_ratio, budget, seed))

    def held(self, cut_ratio: float, seed: int) -> NDArray[np.float32]:
        """What the server's backbone of this seed was trained on: one release of every training image, (N, C, H, W) float32."""
        if cut_ratio == 1:
            return self.noised(self.bench.federation.pooled.images, cut_ratio, seed)
        training = BackboneTraining(cut_ratio, Budget.backbone(self.bench.design), seed)
        return training.samples(self.bench.federation)[0]

    def noised(self, images: NDArray[np.float32], cut_ratio: float, seed: int) -> NDArray[np.float32]:
        """Images as an attacker noises its own, (N, C, H, W) float32: with the arithmetic of a release and noise of its own."""
        noise = np.random.default_rng((seed, 17)).standard_normal(images.shape)
        return Cut(self.bench.schedule, cut_ratio).release(images, noise.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Attacked:
    """Some of the training images.  rows: (n,) of the pooled training images, ascending."""

    scene: Scene
    rows: NDArray[np.intp]
    seed: int

    @cached_property
    def truth(self) -> LabelledImages:
        """The images themselves."""
        return concatenate([client.train for client in self._clients])

    def first(self, n: int) -> "Attacked":
        """A random n of them, or all if they are fewer."""
        order = np.random.default_rng((self.seed, 19)).permutation(len(self.rows))
        return Attacked(self.scene, np.sort(self.rows[order[:n]]), self.seed)

    def released(self, cut_ratio: float, releases: int = 1) -> NDArray[np.float32]:
        """What was sent of them for the backbone of this seed: releases 0 … K-1, (K, n, C, H, W) float32.

        At the cuts 0 and 1 the controls.
        """
        if cut_ratio == 0:
            return np.repeat(self.truth.images[None], releases, axis=0)
        if cut_ratio == 1:
            seeds = [1000 * (self.seed + 1) + index for index in range(releases)]
            return np.stack([self.scene.noised(self.truth.images, 1.0, seed) for seed in seeds])
        federation = self.scene.bench.federation
        return np.concatenate(
            [federation.released(client, cut_ratio, releases, seed=self.seed) for client in self._clients],
            axis=1,
        )

    @cached_property
    def _clients(self) -> list[ClientData]:
        """The clients, each with those of its images that are attacked."""
        found, before = [], 0
        for client in self.scene.bench.federation.clients:
            mine = self.rows[(self.rows >= before) & (self.rows < before + len(client.train))] - before
            before += len(client.train)
            if len(mine):
                found.append(ClientData(client.name, client.train.take(mine), client.held_out))
        return found
