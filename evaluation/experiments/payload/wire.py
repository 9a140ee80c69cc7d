"""What narrowing a release to a payload does to its values: the error, and what rounding must do by arithmetic."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.release.batch import Dtype
from evaluation.experiments.releases.upload import arrived, release_bodies, sent_bytes
from evaluation.metrics.spread import Spread, spread
from evaluation.running.federation import Federation
from evaluation.running.trainings import TrainingOnReleases

UNIFORM_SCATTER = (4 / 5) ** 0.5
"""Standard deviation of the square of a uniform error over its mean."""


@dataclass(frozen=True)
class PayloadTraining(TrainingOnReleases):
    """A backbone on releases as they arrive in a narrow payload, through the system's own messages.

    dtype: of the payload; float32 loses nothing, and is `BackboneTraining`.
    """

    dtype: Dtype

    @property
    def title(self) -> str:
        """A few words for the progress display."""
        return f"backbone at cut {self.cut_ratio:g}, releases as {self.dtype}"

    def samples(self, federation: Federation) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """What the server holds: (N, C, H, W) float32 over all clients, and the labels, (N,) int32."""
        parts = [
            arrived(release_bodies(federation.releases(client, self.cut_ratio, seed=self.seed), self.dtype))
            for client in federation.clients
        ]
        return np.concatenate(parts), federation.pooled.labels


@dataclass(frozen=True)
class Wire:
    """Releases of all clients in one payload.

    sent_bytes: on the wire, in frames;  images: how many releases that is;  values: of all of them together;
    decibels: signal over error of single images, None for a payload that loses nothing;
    ratio: squared error over what uniform rounding has, in the mean over values; None likewise.
    """

    sent_bytes: int
    images: int
    values: int
    decibels: Spread | None
    ratio: float | None


def wire_of(federation: Federation, cut_ratio: float, dtype: Dtype, *, seed: int) -> Wire:
    """Sends release 0 of every image as `dtype` and reads it again.  seed: of the training that it is sent for."""
    clean, read, count = [], [], 0
    for client in federation.clients:
        releases = federation.releases(client, cut_ratio, seed=seed)
        bodies = release_bodies(releases, dtype)
        clean.append(np.stack([one.x_c for one in releases]))
        read.append(arrived(bodies))
        count += sent_bytes(bodies, client.name)
    x_c, got = np.concatenate(clean), np.concatenate(read)
    if np.array_equal(x_c, got):
        return Wire(count, len(x_c), x_c.size, None, None)
    squares = (got.astype(np.float64) - x_c) ** 2
    axes = (1, 2, 3)
    decibels = 10 * np.log10((x_c.astype(np.float64) ** 2).mean(axis=axes) / squares.mean(axis=axes))
    ratio = float((squares / rounding_variance(x_c, dtype)).mean())
    return Wire(count, len(x_c), x_c.size, spread(decibels), ratio)


def rounding_variance(x_c: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float64]:
    """step²/12 for every value, the variance of rounding to steps that are small beside what is rounded.

    float16: the step is the distance to the next float16.  int8: it is a 127th of an image's largest magnitude; that value
    itself is kept exactly, so the others bear its share of the mean.  (N, C, H, W) float64.
    """
    if dtype == "int8":
        largest = np.abs(x_c).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
        values = x_c[0].size
        return np.broadcast_to((largest / 127) ** 2 / 12 * (values - 1) / values, x_c.shape)
    steps = np.spacing(np.abs(x_c).astype(dtype)).astype(np.float64)
    return np.asarray(steps**2 / 12)
