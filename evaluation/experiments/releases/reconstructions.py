"""What an attacker who can link all that was sent of an image reconstructs of it, policy by policy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffusion.split import Cut
from evaluation.attacks.averaging import Evidence, best_linear, mean_errors, of_release, together
from evaluation.attacks.prior import shrunk_prior
from evaluation.data.images import ClientData
from evaluation.experiments.releases.account import Policy
from evaluation.experiments.releases.pairs_evidence import of_pairs
from evaluation.experiments.releases.upload import arrived_pairs, pair_bodies, pairs_of_epoch
from evaluation.metrics.disclosure import Prior, squared_errors
from evaluation.metrics.spread import Spread, spread
from evaluation.running.federation import Federation

IMAGES = 200
"""Attacked of each client at most."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Errors per value over all images that were attacked, values in [-1, 1]; psnr_db: with the range's peak-to-peak of 2.

    averaged_mse: of the mean of what was sent;  expected_mse: what that must be by arithmetic, over all images;
    ratio: of the two, image by image, its mean: 1 where arithmetic holds;
    linear_mse, linear_psnr_db: of the best linear guess from the mean, given what others' images look like.
    values: how many values the means are over;  guesses: (n, C, H, W) of the first client's first images.
    """

    averaged_mse: Spread
    expected_mse: float
    ratio: float
    linear_mse: Spread
    linear_psnr_db: Spread
    values: int
    guesses: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Attacked:
    """The images of a client that are attacked, and what the attacker knows of others' images."""

    client: ClientData
    prior: Prior


def attacked(federation: Federation) -> tuple[Attacked, ...]:
    """Up to `IMAGES` training images of each client; the prior is fitted to the others' training images.

    A client that is alone is attacked with a prior from its own held-out images.
    """
    found = []
    for client in federation.clients:
        few = replace(client, train=client.train.take(np.arange(min(IMAGES, len(client.train)))))
        found.append(Attacked(few, shrunk_prior(federation.known_of_others(client).images)))
    return tuple(found)


def known_to_the_attacker(federation: Federation) -> str:
    """Whose images the prior of `attacked` is fitted to, in words."""
    return "other clients' images" if len(federation.clients) > 1 else "the client's own held-out images"


def blind_mse(targets: Sequence[Attacked]) -> Spread:
    """Control: the error of guessing the mean of others' images, without anything of the image itself."""
    errors = [
        squared_errors(
            each.client.train.images,
            np.broadcast_to(
                each.prior.mean.reshape(each.client.train.images.shape[1:]), each.client.train.images.shape
            ),
        )
        for each in targets
    ]
    return spread(np.concatenate(errors))


def reconstructed(
    federation: Federation,
    cut_ratio: float,
    policy: Policy,
    targets: Sequence[Attacked],
    *,
    seed: int,
    shown: int = 6,
) -> Reconstruction:
    """Attacks all targets with everything that `policy` sends of them: releases in float32, pairs in float16.

    seed: of the training that they are sent for.
    """
    cut = Cut(federation.schedule, cut_ratio)
    evidence = [together(_sent(federation, cut, policy, each.client, seed)) for each in targets]
    images = [each.client.train.images for each in targets]
    guesses = [best_linear(found, each.prior) for found, each in zip(evidence, targets, strict=True)]
    averaged = np.concatenate([mean_errors(e, x_0) for e, x_0 in zip(evidence, images, strict=True)])
    expected = np.concatenate([found.variance for found in evidence])
    linear = np.concatenate([squared_errors(x_0, guess) for x_0, guess in zip(images, guesses, strict=True)])
    return Reconstruction(
        averaged_mse=spread(averaged),
        expected_mse=float(expected.mean()),
        ratio=float((averaged / expected).mean()),
        linear_mse=spread(linear),
        linear_psnr_db=spread(10 * np.log10(4 / linear)),
        values=sum(x_0.size for x_0 in images),
        guesses=guesses[0][:shown],
    )


def _sent(
    federation: Federation, cut: Cut, policy: Policy, client: ClientData, seed: int
) -> Iterator[Evidence]:
    alpha_bar = float(federation.schedule.alpha_bar[cut.t_cut])
    for index in range(policy.sent):
        releases = federation.releases(client, cut.cut_ratio, index, seed=seed)
        if policy.pairs:
            made = pairs_of_epoch(federation, releases, cut.t_cut, np.random.default_rng((index, 6)))
            read = arrived_pairs(pair_bodies(made, cut, index, "float16"))
            yield of_pairs(read, federation.schedule, cut.t_cut)
        else:
            yield of_release(np.stack([one.x_c for one in releases]), alpha_bar)
