"""What a release says about a property of the image: a classifier on x_c beside the same classifier on x_0.

The attacker trains it on images of its own, noised as the device noises. One network answers all questions at once, among
them one about the toss of a coin, which nobody can answer.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from evaluation.data.images import LabelledImages
from evaluation.metrics.disclosure import Prior

COIN = "toss of a coin"
LEAST_OF_A_KIND = 5
HIDDEN_UNITS = 64
MOST_COORDINATES = 256
EPOCHS = 40


@dataclass(frozen=True, eq=False)
class Questions:
    """Yes-or-no questions about images, the last of them the coin.

    names: one for each;  labels: how many of them, counted from the first, ask "is it of this label?".
    own: (n, Q) bool, the answers for the attacker's images;  truth: (N, Q) bool, those for the images attacked.
    """

    names: tuple[str, ...]
    labels: int
    own: NDArray[np.bool_]
    truth: NDArray[np.bool_]


def questions(
    own: LabelledImages, attacked: LabelledImages, label_names: tuple[str, ...], *, seed: int = 0
) -> Questions:
    """All that can be asked: every label against the rest, every attribute, and the coin.

    An attribute that is a measure is asked for as "more than the median of the attacker's images". What has fewer than five
    images of either answer on either side is not asked.
    """
    asked: list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]] = []
    for label, name in enumerate(label_names):
        asked.append((name, own.labels == label, attacked.labels == label))
    asked = [part for part in asked if _answerable(part[1]) and _answerable(part[2])]
    labels = len(asked)
    for name in own.attribute_names:
        mine, theirs = own.attribute(name), attacked.attribute(name)
        threshold = 0.5 if set(np.unique(mine)) <= {0.0, 1.0} else float(np.median(mine))
        if _answerable(mine > threshold) and _answerable(theirs > threshold):
            asked.append((name, mine > threshold, theirs > threshold))
    rng = np.random.default_rng((seed, 7))
    asked.append((COIN, rng.random(len(own)) < 0.5, rng.random(len(attacked)) < 0.5))
    return Questions(
        tuple(part[0] for part in asked),
        labels,
        np.stack([part[1] for part in asked], axis=1),
        np.stack([part[2] for part in asked], axis=1),
    )


def answers(
    own_x: NDArray[np.float32],
    own: NDArray[np.bool_],
    x_c: NDArray[np.float32],
    alpha_bar: float,
    prior: Prior,
    *,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How likely a "yes" is for every image attacked: (N, Q) float64 in [0, 1].

    own_x: (R, n, C, H, W) float32, the attacker's images, each noised R times;  own: (n, Q) bool, Q ≥ 1, their answers;
    x_c: (N, C, H, W) float32;  seed: of the network.
    """
    rows = own_x.reshape(-1, *own_x.shape[2:])
    mine, theirs = (coordinates(part, alpha_bar, prior) for part in (rows, x_c))
    scale = float(mine.std()) or 1.0
    network = MLPClassifier(
        (HIDDEN_UNITS,),
        alpha=1e-2,
        learning_rate_init=3e-3,
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        random_state=seed,
    )
    known = np.tile(own, (len(own_x), 1)).astype(np.int64)
    with warnings.catch_warnings():
        # It ends after its epochs, not when it has converged: that is meant.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # With one question scikit-learn wants a vector, and answers with both probabilities.
        network.fit(mine / scale, known[:, 0] if known.shape[1] == 1 else known)
    likely = np.asarray(network.predict_proba(theirs / scale), dtype=np.float64)
    return likely[:, 1:] if known.shape[1] == 1 else likely


def coordinates(x_c: NDArray[np.float32], alpha_bar: float, prior: Prior) -> NDArray[np.float64]:
    """The best linear reconstruction along the widest directions of the prior, at most 256: (N, m) float64.

    Its coordinates shrink where noise drowns the image, so a classifier need not learn that first.
    """
    widest = slice(-min(MOST_COORDINATES, len(prior.variances)), None)
    flat = x_c.reshape(len(x_c), -1).astype(np.float64)
    along = (flat - np.sqrt(alpha_bar) * prior.mean) @ prior.directions[:, widest]
    variances = prior.variances[widest]
    gain = np.sqrt(alpha_bar) * variances / (alpha_bar * variances + (1.0 - alpha_bar))
    return np.asarray(along * gain, dtype=np.float64)


def areas(likely: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The area under the ROC curve of every question: (N, Q), (N, Q) → (Q,) float64."""
    return np.asarray(
        [roc_auc_score(truth[:, q], likely[:, q]) for q in range(truth.shape[1])], dtype=np.float64
    )


def _answerable(answer: NDArray[np.bool_]) -> bool:
    return LEAST_OF_A_KIND <= int(answer.sum()) <= len(answer) - LEAST_OF_A_KIND
