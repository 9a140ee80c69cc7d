"""The first gate before every bundle: single network calls, compared with what the trained network computes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from export.bundle.bars import Bar
from export.bundle.gates import LevelError, StepErrors
from export.conversion.running import Exported
from export.conversion.trajectories import Inputs, Trained, images_of, noised
from export.errors import ParityFailed

BATCH_SIZES = (1, 3, 16)
NOISE_LEVELS = 5
# The largest batch visits every step; the smaller ones this many, spread over the whole range.
_STEPS_AT_SMALL_BATCHES = 48
_STEPS_OF_IMAGES = 8
_IMAGES = 32


@dataclass(frozen=True, eq=False)
class _Compared:
    """Per sample: t, the mean square of the difference and of torch's ε, and the largest difference; (N,) each."""

    t: NDArray[np.int64]
    difference_square: NDArray[np.float64]
    eps_square: NDArray[np.float64]
    largest: NDArray[np.float64]

    @property
    def relative_rms(self) -> NDArray[np.float64]:
        return np.sqrt(self.difference_square / np.maximum(self.eps_square, 1e-12))


def check_parity(
    head: Trained, exported: Exported, bar: Bar, x0: NDArray[np.float32] | None = None
) -> StepErrors:
    """Compare the exported network with torch on noisy inputs over every step the head owns.

    Every `t` in `[1, t_cut]` and every label, "no label" among them, is met at least once, at the batch sizes
    `BATCH_SIZES`. The inputs are x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε from a fixed seed.

    Args:
        head: the trained head.
        exported: what became of it.
        bar: what passes.
        x0: (N, C, H, W) float32 images in [-1, 1] to start from; the head's own images by default.

    Raises:
        ParityFailed: an error over the bar, or a value that is not finite.
    """
    if x0 is None:
        x0 = images_of(head, _STEPS_OF_IMAGES, max(_IMAGES, head.labels), seed=1)
    compared = _compare(head, exported, x0)
    _check_worst_sample(compared, bar)
    levels = _by_noise_level(compared, head.t_cut)
    worst = max(levels, key=lambda level: level.relative_rms)
    if not worst.relative_rms <= bar.step_relative_rms:
        raise ParityFailed(
            f"the exported head differs from the trained one by {worst.relative_rms:.2e} (relative RMS) at "
            f"t={worst.t_first}..{worst.t_last} (allowed: {bar.step_relative_rms:.0e}); no bundle was written, "
            "export it again, at a higher precision, or report the network"
        )
    return StepErrors(
        allowed_relative_rms=bar.step_relative_rms,
        relative_rms=worst.relative_rms,
        max_abs_error=float(compared.largest.max()),
        mean_abs_error=float(compared.largest.mean()),
        batch_sizes=BATCH_SIZES,
        evaluations=len(compared.t),
        levels=levels,
    )


def _compare(head: Trained, exported: Exported, x0: NDArray[np.float32]) -> _Compared:
    t_seen, parts = [], []
    for probe in _probes(head, x0):
        eps = head.predict(probe).astype(np.float64).reshape(len(probe.t), -1)
        difference = exported.predict(probe).reshape(len(probe.t), -1) - eps
        t_seen.append(probe.t)
        parts.append(
            np.stack(((difference**2).mean(axis=1), (eps**2).mean(axis=1), np.abs(difference).max(axis=1)))
        )
    return _Compared(np.concatenate(t_seen), *np.concatenate(parts, axis=1))


def _check_worst_sample(compared: _Compared, bar: Bar) -> None:
    relative = compared.relative_rms
    worst = int(np.argmax(np.where(np.isnan(relative), np.inf, relative)))
    if not relative[worst] <= bar.worst_sample_relative_rms:
        raise ParityFailed(
            f"the exported head differs from the trained one by {relative[worst]:.2e} (relative RMS) in one sample at "
            f"t={compared.t[worst]} (allowed: {bar.worst_sample_relative_rms:.0e}); no bundle was written, "
            "export it again, at a higher precision, or report the network"
        )


def _probes(head: Trained, x0: NDArray[np.float32]) -> Iterator[Inputs]:
    generator = np.random.Generator(np.random.PCG64(0))
    for batch_size in BATCH_SIZES:
        every_step = batch_size == max(BATCH_SIZES)
        count = max(head.t_cut, head.labels) if every_step else min(head.t_cut, _STEPS_AT_SMALL_BATCHES)
        # Batches of one size only: the count is rounded up, the steps start over.
        count = -(-count // batch_size) * batch_size
        steps = np.linspace(1, head.t_cut, min(count, head.t_cut)).round().astype(np.int64)
        t_all = generator.permutation(np.resize(steps, count))
        label_all = np.arange(count, dtype=np.int64) % head.labels
        for first in range(0, count, batch_size):
            chosen = np.arange(first, first + batch_size)
            t = t_all[chosen]
            x = noised(head.schedule, x0[chosen % len(x0)], t, generator)
            yield Inputs(x, t, label_all[chosen])


def _by_noise_level(compared: _Compared, t_cut: int) -> tuple[LevelError, ...]:
    edges = np.unique(np.linspace(0, t_cut, NOISE_LEVELS + 1).round().astype(int))
    levels = []
    for low, high in pairwise(edges):
        here = (compared.t > low) & (compared.t <= high)
        mean = compared.difference_square[here].mean() / compared.eps_square[here].mean()
        largest = float(compared.largest[here].max())
        levels.append(
            LevelError(
                t_first=int(low) + 1,
                t_last=int(high),
                relative_rms=float(np.sqrt(mean)),
                max_abs_error=largest,
            )
        )
    return tuple(levels)
