"""Two sets of images compared in an extractor's features: FID, KID, precision, recall, and agreement with the labels asked for.

FID and KID are torchmetrics', in float64, on features that were made beforehand. The hundreds of values behind an interval,
and the FIDs of a floor, come from the closed forms beside them, which tests hold to the same values: in the 2,048 features of
Inception torchmetrics takes 6 s for one FID on a slow core, the closed form 0.2 s.

Both sets are of one size m, since FID, precision and recall depend on it: a model can be read against the floor only where m is
the same.
"""

import warnings
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from evaluation.data.images import LabelledImages
from evaluation.errors import DataError, MeasurementsError
from evaluation.metrics import manifold
from evaluation.metrics.estimate import Estimate, estimate, half_samples, share_estimate
from evaluation.metrics.extractors import Extractor, Judge

LEAST_SIZE = 8
"""Fewer images say nothing about a distribution."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class SetFidelity:
    """How near a set of images comes to a real one.

    fid: Fréchet distance in features, smaller is nearer; never 0 for finite sets: read it beside the floor.
    kid: squared polynomial-kernel distance, unbiased: around 0 for sets of one source, and then often negative.
    precision, recall: shares in [0, 1] of generated images among the real, of real ones among the generated.
    agreement: share in [0, 1] of generated images that the judge names as asked for; None without a judge.
    extractor, judge: who measured; size: m of both sets; dimensions: d of the features; draws: half-samples, or the splits
    of a floor.
    """

    fid: Estimate
    kid: Estimate
    precision: Estimate
    recall: Estimate
    agreement: Estimate | None
    extractor: str
    judge: str | None
    size: int
    dimensions: int
    draws: int


def comparable_size(generated: LabelledImages, real: LabelledImages) -> int:
    """The largest m at which the generated images can be measured and the real ones have a floor."""
    return min(len(generated), len(real) // 2)


def measure_sets(
    generated: LabelledImages,
    real: LabelledImages,
    extractor: Extractor,
    *,
    judge: Judge | None = None,
    size: int | None = None,
    draws: int = 1,
    bootstrap: int = 200,
    seed: int = 0,
) -> SetFidelity:
    """Measure generated images against real ones.

    Where a side has more than m images, m are drawn; the values are means over `draws` such draws, so that what is compared
    between models is the models and not the luck of one draw. The agreement is that of all generated images.

    The intervals are of one draw of images, of both sides: `bootstrap` times half of each is drawn without replacement
    (see `estimate`). They do not cover the luck of training, nor that of the extractor.

    Args:
        generated: with the labels that were asked for.
        real: what they should look like.
        extractor: makes the features.
        judge: names the images; the extractor itself if it can and nobody else is given.
        size: m; `comparable_size` if left out.
        draws: how many, one or more.
        bootstrap: half-samples of the first draw, two or more.
        seed: of the draws; one seed draws the same rows for every model.

    Raises:
        MeasurementsError: m is below 8 or more than there are.
        DataError: the extractor gives something else than one finite vector for each image.
    """
    m = comparable_size(generated, real) if size is None else size
    _check_size(m, min(len(generated), len(real)))
    if draws < 1:
        raise MeasurementsError(f"{draws} draws measure nothing: take one or more")
    of_real, of_generated, of_halves = (np.random.default_rng((seed, 3, part)) for part in range(3))
    x = np.stack([_rows(len(generated), m, of_generated) for _ in range(draws)])
    y = np.stack([_rows(len(real), m, of_real) for _ in range(draws)])
    a, b = features_of(extractor, generated), features_of(extractor, real)
    distances = manifold.Distances.of(a, b)
    drawn = [manifold.of_rows(distances, rows, others) for rows, others in zip(x, y, strict=True)]
    first, second = a[x[0]], b[y[0]]
    halves = tuple(half_samples(m, bootstrap, of_halves) for _ in range(2))
    parts = [manifold.of_rows(drawn[0], p, q) for p, q in zip(*halves, strict=True)]
    fids = [fid(first, second), *(frechet_of_features(a[p], b[q]) for p, q in zip(x[1:], y[1:], strict=True))]
    kids = [kid(first, second), *_kids_of_rows(a, b, x[1:], y[1:])]
    namer = judge or (extractor if isinstance(extractor, Judge) else None)
    return SetFidelity(
        fid=estimate(
            fmean(fids), [frechet_of_features(first[p], second[q]) for p, q in zip(*halves, strict=True)]
        ),
        kid=estimate(fmean(kids), _kids_of_rows(first, second, *halves)),
        precision=_share(drawn, parts, manifold.precision, m),
        recall=_share(drawn, parts, manifold.recall, m),
        agreement=None if namer is None else share_estimate(_hits(namer, generated), len(generated)),
        extractor=extractor.name,
        judge=None if namer is None else namer.name,
        size=m,
        dimensions=a.shape[1],
        draws=bootstrap,
    )


def floor_of(
    real: LabelledImages,
    extractor: Extractor,
    size: int,
    *,
    judge: Judge | None = None,
    splits: int = 20,
    seed: int = 0,
) -> SetFidelity:
    """Real against real: what a perfect generator would score with m images.

    Each split draws two disjoint sets of m. The value is the mean over the splits, the interval encloses the middle 95 % of
    them; where 2m is near all there are, the splits share images and the interval is somewhat too narrow.

    size: m, at most half of the images.  splits: two or more.  Raises MeasurementsError for another m.
    """
    _check_size(size, len(real) // 2)
    rng = np.random.default_rng((seed, 4))
    features = features_of(extractor, real)
    namer = judge or (extractor if isinstance(extractor, Judge) else None)
    right = None if namer is None else namer.predict(real.images) == real.labels
    orders = [rng.permutation(len(real))[: 2 * size] for _ in range(splits)]
    pairs = [(features[rows[:size]], features[rows[size:]]) for rows in orders]
    distances = [manifold.Distances.of(a, b) for a, b in pairs]
    return SetFidelity(
        fid=_middle([frechet_of_features(a, b) for a, b in pairs]),
        kid=_middle([kid(a, b) for a, b in pairs]),
        precision=_middle([manifold.precision(each) for each in distances]),
        recall=_middle([manifold.recall(each) for each in distances]),
        agreement=None if right is None else share_estimate(int(right.sum()), len(right)),
        extractor=extractor.name,
        judge=None if namer is None else namer.name,
        size=size,
        dimensions=features.shape[1],
        draws=splits,
    )


def fid(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Fréchet distance of two sets of features, (m, d) and (n, d), as torchmetrics has it, in float64."""
    metric = FrechetInceptionDistance(feature=_Through(a.shape[1])).set_dtype(torch.float64)
    metric.update(torch.from_numpy(b), real=True)
    metric.update(torch.from_numpy(a), real=False)
    return max(0.0, float(metric.compute()))


def kid(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Kernel distance of two sets of features, both (m, d), as torchmetrics has it, in float64.

    Its one subset is all of both sets, so that it depends on no draw; the generator that torchmetrics shuffles them with is
    left as it was.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features", category=UserWarning)
        metric = KernelInceptionDistance(feature=_Through(a.shape[1]), subsets=1, subset_size=len(a))
        metric.update(torch.from_numpy(b), real=True)
        metric.update(torch.from_numpy(a), real=False)
        mean, _ = metric.compute()
    return float(mean)


def frechet_of_features(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The same distance as `fid` without the covariances: they need not be formed, and may be singular.

    With centred features X, Y and XᵀX = R_aᵀR_a, tr(Σ_a^½ Σ_b Σ_a^½)^½ is the sum of the singular values of R_a R_bᵀ over
    √((m-1)(n-1)), since XYᵀ has the same ones.
    """
    x, y = _centred(a), _centred(b)
    cross = scipy.linalg.svdvals(_triangle(x) @ _triangle(y).T).sum()
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return max(0.0, float(shift + (x**2).sum() + (y**2).sum() - 2 * cross))


def _centred(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """X with XᵀX the covariance of the features, (m, d)."""
    found: NDArray[np.float64] = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return found


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """R with RᵀR = XᵀX, (min(m, d), d)."""
    found: NDArray[np.float64] = np.asarray(np.linalg.qr(x, mode="r"))
    return found


class _Through(torch.nn.Module):
    """Gives torchmetrics the features it is given."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def features_of(extractor: Extractor, data: LabelledImages) -> NDArray[np.float64]:
    """(N, d) float64.  Raises DataError where the extractor gives something else than one finite vector for each image."""
    found = np.asarray(extractor.features(data.images), dtype=np.float64)
    if found.ndim != 2 or len(found) != len(data) or not np.isfinite(found).all():
        raise DataError(
            f"{extractor.name} gives features of shape {found.shape} for {len(data)} images, or some that are no numbers: "
            "one finite vector for each is needed"
        )
    return found


def _kids_of_rows(
    a: NDArray[np.float64], b: NDArray[np.float64], of_a: NDArray[np.intp], of_b: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The unbiased estimate for every pair of half-samples, of kernels that are computed once: (B,)."""
    d, half = a.shape[1], of_a.shape[1]
    aa, bb, ab = ((x @ y.T / d + 1.0) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    np.fill_diagonal(aa, 0.0)
    np.fill_diagonal(bb, 0.0)
    in_a, in_b = _indicators(of_a, len(a)), _indicators(of_b, len(b))
    within = ((in_a @ aa) * in_a).sum(axis=1) + ((in_b @ bb) * in_b).sum(axis=1)
    between = ((in_a @ ab) * in_b).sum(axis=1)
    found: NDArray[np.float64] = within / (half * (half - 1)) - 2 * between / half**2
    return found


def _indicators(rows: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    inside = np.zeros((len(rows), n))
    np.put_along_axis(inside, rows, 1.0, axis=1)
    return inside


def _middle(values: Sequence[float]) -> Estimate:
    low, high = np.quantile(values, (0.025, 0.975))
    return Estimate(float(np.mean(values)), float(low), float(high))


def _share(
    drawn: Sequence[manifold.Distances],
    halves: Sequence[manifold.Distances],
    of: Callable[[manifold.Distances], float],
    size: int,
) -> Estimate:
    """The mean share over the draws, with the interval of one draw of `size` images around it."""
    share = fmean(of(each) for each in drawn)
    around = share_estimate(round(share * size), size, [of(half) for half in halves])
    return Estimate(share, min(share, around.low), max(share, around.high))


def _hits(judge: Judge, asked: LabelledImages) -> int:
    return int((judge.predict(asked.images) == asked.labels).sum())


def _rows(n: int, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """All rows where all are wanted, else `size` drawn: (size,) int."""
    return np.arange(n) if n == size else rng.permutation(n)[:size]


def _check_size(size: int, most: int) -> None:
    if not LEAST_SIZE <= size <= most:
        raise MeasurementsError(
            f"sets of {size} images cannot be compared: take {LEAST_SIZE} or more, and at most {most} of these"
        )
