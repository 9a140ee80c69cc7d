"""How close generated images come to a client's real ones, with spread and beside the real-versus-real floor.

Every distance here compares two sets of the same size m, because both the Fréchet distance and the scatter
of KID depend on the size: a model and the floor can only be read against one another when their m is the same.

This is the demo's measure. torchmetrics, which `sets` uses, would give the same values to a ten-millionth, also in
pixels, where covariances are singular; but it takes seconds to import, and a demo is waited for. So the two distances
stay written out here, and tests hold each implementation to the other.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evaluation.data.images import ClientData, LabelledImages
from evaluation.errors import DataError, MeasurementsError
from evaluation.metrics.features import Classifier
from evaluation.metrics.spread import Spread, spread


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Fidelity:
    """One set-up measured against a client's real images.

    frechet: Fréchet distance between Gaussians fitted in pixel space, pixels in [-1, 1]; smaller is closer.
    kid: squared polynomial-kernel distance (unbiased, so it may be negative) in the classifier's features.
    agreement: share of images in [0, 1] that the classifier names as the label that was asked for.
    sets: independent sets (generation seeds); subsets: draws from each; subset_size: m of every comparison.
    """

    frechet: Spread
    kid: Spread
    agreement: Spread
    sets: int
    images_per_set: int
    subsets: int
    subset_size: int


def frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Fréchet distance of two Gaussians fitted to two sets of images, each (N, …) of one shape, N ≥ 2.

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½)   (Dowson & Landau 1982; Heusel et al. 2017, eq. 6)

    In float64 from symmetric eigendecompositions, whose tiny negative eigenvalues are set to zero. Nothing is
    standardised and nothing is added to the diagonal: a pixel that is constant in one set or both (the
    digits have several) therefore contributes exactly its difference in mean and its variance in the other
    set, however singular the covariances.
    """
    x, y = (np.asarray(images, dtype=np.float64).reshape(len(images), -1) for images in (a, b))
    if len(x) < 2 or len(y) < 2 or x.shape[1] != y.shape[1]:
        raise DataError(
            f"no Fréchet distance of {np.shape(a)} and {np.shape(b)}: give two images or more of one shape"
        )
    return frechet_of_gaussians(x.mean(axis=0), _covariance(x), y.mean(axis=0), _covariance(y))


def frechet_of_gaussians(
    mean_a: NDArray[np.float64],
    covariance_a: NDArray[np.float64],
    mean_b: NDArray[np.float64],
    covariance_b: NDArray[np.float64],
) -> float:
    """Fréchet distance of two Gaussians: means (d,), covariances (d, d); returns a value ≥ 0."""
    values, vectors = scipy.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = root @ covariance_b @ root
    cross = np.sqrt(np.maximum(scipy.linalg.eigvalsh((inner + inner.T) / 2), 0.0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross
    return max(float(distance), 0.0)


def kid(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kernel distance of two sets of features, (m, d) and (n, d), m and n ≥ 2: the unbiased estimate of MMD².

    Kernel (x·y / d + 1)³ (Bińkowski et al. 2018, eq. 3 and §2.2). Unbiased, so two sets from one source
    give values around zero, some of them negative.
    """
    m, n, d = len(a), len(b), a.shape[1]
    if m < 2 or n < 2 or b.shape[1] != d:
        raise DataError(
            f"no kernel distance between {a.shape} and {b.shape}: same features, two images or more"
        )
    aa, bb, ab = ((x @ y.T / d + 1.0) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within_a = (aa.sum() - np.trace(aa)) / (m * (m - 1))
    within_b = (bb.sum() - np.trace(bb)) / (n * (n - 1))
    return float(within_a + within_b - 2.0 * ab.mean())


def measure(
    generated: Sequence[LabelledImages],
    client: ClientData,
    classifier: Classifier,
    *,
    subsets: int = 10,
    seed: int = 0,
) -> Fidelity:
    """Compares a generator's images with the client's real ones (training and held out together).

    From every generated set, `subsets` draws of m images without replacement are compared with as many
    fresh draws of m real ones. m is half the real images, or the size of the smallest generated set if that
    is less: the same m that `floor` takes when told `at_most`. The spread covers generation seeds and the
    draw of images; it does not cover the luck of training, which would take several trainings.

    Args:
        generated: one set per generation seed; labels are those that were asked for.
        client: whose images are the reference.
        classifier: gives the features of KID and the agreement.
        subsets: draws per set.
        seed: of the draws. Two set-ups measured with one seed meet the same real subsets.

    Raises:
        MeasurementsError: fewer than two sets, or sets of fewer than eight images.
    """
    if len(generated) < 2:
        raise MeasurementsError(
            f"{len(generated)} generated set(s) show no spread: generate with two seeds or more"
        )
    size = min(subset_size(client), *(len(images) for images in generated))
    rng_real, rng_generated = (np.random.default_rng((seed, 1, side)) for side in (0, 1))
    real = client.everything

    def pair(index: int) -> tuple[LabelledImages, LabelledImages]:
        return _draw(rng_real, real, size), _draw(rng_generated, generated[index // subsets], size)

    return _fidelity(
        pair,
        classifier,
        sets=len(generated),
        images_per_set=min(len(images) for images in generated),
        subsets=subsets,
        size=size,
    )


def floor(
    client: ClientData,
    classifier: Classifier,
    *,
    at_most: int | None = None,
    subsets: int = 30,
    seed: int = 0,
) -> Fidelity:
    """Real against real: what a perfect generator would score at this number of images.

    Every draw splits the client's images afresh into two disjoint sets of m (half of them, or `at_most` if
    that is less). The agreement is the classifier's on held-out images only, drawn with replacement: its
    own mistakes, not the images'.
    """
    size = min(subset_size(client), at_most or subset_size(client))
    rng = np.random.default_rng((seed, 2))
    real = client.everything
    distances = [_halves(rng, real, size) for _ in range(subsets)]
    right = classifier.predict(client.held_out.images) == client.held_out.labels
    return Fidelity(
        frechet=spread(frechet(a.images, b.images) for a, b in distances),
        kid=spread(kid(classifier.features(a.images), classifier.features(b.images)) for a, b in distances),
        agreement=spread(float(rng.choice(right, len(right)).mean()) for _ in range(subsets)),
        sets=1,
        images_per_set=len(real),
        subsets=subsets,
        subset_size=size,
    )


def subset_size(client: ClientData) -> int:
    """Half of the client's images: the most for which a real-versus-real floor can be had."""
    return (len(client.train) + len(client.held_out)) // 2


def _fidelity(
    pair: Callable[[int], tuple[LabelledImages, LabelledImages]],
    classifier: Classifier,
    *,
    sets: int,
    images_per_set: int,
    subsets: int,
    size: int,
) -> Fidelity:
    if size < 8:
        raise MeasurementsError(f"sets of {size} images say nothing about a distribution: give eight or more")
    pairs = [pair(index) for index in range(sets * subsets)]
    return Fidelity(
        frechet=spread(frechet(a.images, b.images) for a, b in pairs),
        kid=spread(kid(classifier.features(a.images), classifier.features(b.images)) for a, b in pairs),
        agreement=spread(float((classifier.predict(b.images) == b.labels).mean()) for _, b in pairs),
        sets=sets,
        images_per_set=images_per_set,
        subsets=subsets,
        subset_size=size,
    )


def _draw(rng: np.random.Generator, data: LabelledImages, size: int) -> LabelledImages:
    return data.take(rng.permutation(len(data))[:size])


def _halves(
    rng: np.random.Generator, data: LabelledImages, size: int
) -> tuple[LabelledImages, LabelledImages]:
    rows = rng.permutation(len(data))
    return data.take(rows[:size]), data.take(rows[size : 2 * size])


def _covariance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.atleast_2d(np.cov(x, rowvar=False))
