"""A classifier with a name, trained on the data at hand, in whose features images are compared.

Inception features say little about scans of eight by eight pixels. The classifier here sees the training
images of all clients and nothing else; its accuracy on the held-out images is part of every result that
rests on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier

from evaluation.data.images import ClientData, LabelledImages, concatenate
from evaluation.errors import DataError

HIDDEN_UNITS = (128, 64)
DEAD_BELOW_SHARE = 0.02
"""A unit that fires on fewer than this share of the training images has no usable scale and is dropped."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A small rectified network: pixels → 128 → 64 features → labels.

    weights: three (n_in, n_out) float64 matrices; biases: three (n_out,) float64.
    labels: (K,) int32, the label of each output. kept: (n,) int, the features that are alive.
    feature_mean, feature_scale: (n,) float64 of the kept features over the training images.
    held_out_accuracy: share of the held-out images named rightly, in [0, 1]; held_out_images: how many
    there were.
    """

    name: str
    weights: tuple[NDArray[np.float64], ...]
    biases: tuple[NDArray[np.float64], ...]
    labels: NDArray[np.int32]
    kept: NDArray[np.intp]
    feature_mean: NDArray[np.float64]
    feature_scale: NDArray[np.float64]
    held_out_accuracy: float
    held_out_images: int

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, n) float64, standardised over the training images."""
        hidden = _hidden(images, self.weights, self.biases)
        return (hidden[:, self.kept] - self.feature_mean) / self.feature_scale

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """(N, C, H, W) float32 in [-1, 1] → (N,) int32, the label of the largest output."""
        scores = _hidden(images, self.weights, self.biases) @ self.weights[-1] + self.biases[-1]
        named: NDArray[np.int32] = self.labels[scores.argmax(axis=1)]
        return named


def train_classifier(clients: Sequence[ClientData], *, seed: int = 0) -> Classifier:
    """Trains on the training images of all clients (seconds for the digits), scores on all held-out ones.

    Raises:
        DataError: fewer than three labels among the clients together.
    """
    train = concatenate([client.train for client in clients])
    held_out = concatenate([client.held_out for client in clients])
    labels = np.unique(train.labels)
    if len(labels) < 3:
        raise DataError(
            f"a classifier of {len(labels)} label(s) tells little: give clients with three or more together"
        )
    network = MLPClassifier(HIDDEN_UNITS, activation="relu", alpha=1e-3, max_iter=400, random_state=seed)
    network.fit(_flat(train.images), train.labels)
    weights = tuple(np.asarray(matrix, dtype=np.float64) for matrix in network.coefs_)
    biases = tuple(np.asarray(vector, dtype=np.float64) for vector in network.intercepts_)
    hidden = _hidden(train.images, weights, biases)
    kept = np.flatnonzero((hidden > 0).mean(axis=0) >= DEAD_BELOW_SHARE)
    return Classifier(
        name=f"MLP {HIDDEN_UNITS[0]}-{HIDDEN_UNITS[1]} on {len(train)} training images, seed {seed}",
        weights=weights,
        biases=biases,
        labels=labels.astype(np.int32),
        kept=kept,
        feature_mean=hidden[:, kept].mean(axis=0),
        feature_scale=hidden[:, kept].std(axis=0),
        held_out_accuracy=_accuracy(network, held_out),
        held_out_images=len(held_out),
    )


def _accuracy(network: MLPClassifier, data: LabelledImages) -> float:
    return float((network.predict(_flat(data.images)) == data.labels).mean())


def _flat(images: NDArray[np.float32]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1).astype(np.float64)


def _hidden(
    images: NDArray[np.float32], weights: Sequence[NDArray[np.float64]], biases: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The last hidden layer, (N, 64) float64, not negative."""
    activation = _flat(images)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        activation = np.maximum(activation @ weight + bias, 0.0)
    return activation
