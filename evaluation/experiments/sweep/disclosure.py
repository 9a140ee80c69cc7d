"""What the server holds of a client at a cut, against the clean images: the releases, and what it generates itself.

Mean squared errors are per value, with values in [-1, 1]. KID is in the extractor's features of the images as they can be
shown, clipped to [-1, 1]. The reconstruction is the best linear one (`metrics.disclosure.reconstruct`) by an attacker who
has the training images of all other clients.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.attacks.prior import shrunk_prior
from evaluation.data.images import ClientData, LabelledImages
from evaluation.metrics.disclosure import Prior, reconstruct, squared_errors
from evaluation.metrics.extractors import Extractor
from evaluation.metrics.sets import comparable_size, kid
from evaluation.running.federation import Federation


@dataclass(frozen=True)
class ReleasedDisclosure:
    """Of the releases of one client that one seed's backbone learns from.

    kid: of the releases of one half of the images against the other half, clean; so at c = 0 it is real against real.
    mse: of x_c against its own image;  rebuilt_mse: of the best linear reconstruction.
    """

    kid: float
    mse: float
    rebuilt_mse: float


@dataclass(frozen=True)
class GeneratedDisclosure:
    """Of the images that the server makes for a client up to the cut.

    They belong to no image, so each is held against the nearest training image of the client, of which the least error says
    whether one is given away.  kid: against as many training images.
    """

    kid: float
    nearest_mse: float
    rebuilt_nearest_mse: float


@dataclass(frozen=True)
class Controls:
    """What the figures of a client must lie between.

    open_mse: the reconstruction where the server has the image itself, must be 0;  blind_mse: the mean of the prior, a guess
    made without anything;  noise_gain, noise_gain_error: `gain_of_own` of the reconstruction fed with noise, must be 0 within
    its standard error;  nearest_held_out_mse: of a held-out image against the nearest training image, what a stranger's image
    has.
    """

    open_mse: float
    blind_mse: float
    noise_gain: float
    noise_gain_error: float
    nearest_held_out_mse: float


@dataclass(frozen=True, eq=False)
class Attacker:
    """Who holds what the server holds of one client."""

    client: ClientData
    prior: Prior
    extractor: Extractor

    def released(self, x_c: NDArray[np.float32], alpha_bar: float, seed: int) -> ReleasedDisclosure:
        """x_c: (N, C, H, W) float32 of the training images, in their order;  alpha_bar: ᾱ at the cut;  seed: of the halves."""
        clean = self.client.train.images
        rows = np.random.default_rng((seed, 5)).permutation(len(clean))
        half = len(rows) // 2
        return ReleasedDisclosure(
            self._kid(x_c[rows[:half]], clean[rows[half : 2 * half]]),
            float(squared_errors(clean, x_c).mean()),
            float(squared_errors(clean, reconstruct(x_c, alpha_bar, self.prior)).mean()),
        )

    def generated(self, at_cut: LabelledImages, alpha_bar: float, seed: int) -> GeneratedDisclosure:
        """at_cut: what the server hands over, with the labels asked for;  seed: of which of them are compared."""
        clean = self.client.train
        size = comparable_size(at_cut, clean)
        rng = np.random.default_rng((seed, 6))
        made, true = (part.take(rng.permutation(len(part))[:size]).images for part in (at_cut, clean))
        rebuilt = reconstruct(made, alpha_bar, self.prior)
        return GeneratedDisclosure(
            self._kid(made, true),
            nearest_mse(made, clean.images),
            nearest_mse(rebuilt, clean.images),
        )

    def controls(self, alpha_bar: float, seed: int = 0) -> Controls:
        """alpha_bar: ᾱ at the cut whose reconstruction is fed with noise."""
        clean = self.client.train.images
        mean = np.broadcast_to(self.prior.mean.reshape(clean.shape[1:]), clean.shape)
        noise = np.random.default_rng((seed, 7)).standard_normal(clean.shape).astype(np.float32)
        return Controls(
            float(squared_errors(clean, reconstruct(clean, 1.0, self.prior)).mean()),
            float(squared_errors(clean, mean).mean()),
            *gain_of_own(reconstruct(noise, alpha_bar, self.prior), clean),
            nearest_mse(self.client.held_out.images, clean),
        )

    def _kid(self, shown: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
        images = np.clip(shown, -1.0, 1.0).astype(np.float32)
        return kid(self.extractor.features(images), self.extractor.features(clean))


def attacker_of(federation: Federation, client: ClientData, extractor: Extractor) -> Attacker:
    """The attacker on this client: of other clients it has all training images; of a client alone, its held-out ones."""
    return Attacker(client, shrunk_prior(federation.known_of_others(client).images), extractor)


def nearest_mse(images: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Mean over images of the least mean squared error against any of the others: (n, …), (m, …) → float."""
    a, b = (np.asarray(part, dtype=np.float64).reshape(len(part), -1) for part in (images, others))
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return float(np.maximum(squares.min(axis=1), 0.0).mean() / a.shape[1])


def gain_of_own(guesses: NDArray[np.floating], originals: NDArray[np.floating]) -> tuple[float, float]:
    """How much nearer guesses lie to their own original than to the one before, in mean squared error, and its standard error.

    Each guess without the mean of all, for that says nothing of single images: 2⟨g_i − ḡ, x_i − x_{i−1}⟩ per value, whose mean
    is 0 where guesses know nothing of their originals, however far the attacker's images are from them.

    guesses, originals: (N, …), N ≥ 2, in the same order.
    """
    g, x = (np.asarray(part, dtype=np.float64).reshape(len(part), -1) for part in (guesses, originals))
    gains = 2.0 * ((g - g.mean(axis=0)) * (x - np.roll(x, 1, axis=0))).mean(axis=1)
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))
