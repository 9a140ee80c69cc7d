"""The second gate before every bundle: whole images by the exported head, compared with torch's from the same start.

A single call may be close and a chain of them drift; so the chain itself is run, from several seeds, and its distance
to torch's images is held against the distance between two runs of torch.
"""

import numpy as np
from numpy.typing import NDArray

from diffusion import sampling
from export.bundle.bars import Bar
from export.bundle.gates import MAX_PSNR_DB, ChainFidelity
from export.conversion.running import Exported
from export.conversion.trajectories import CLIP, Inputs, Trained, images_of, start_of
from export.errors import ParityFailed

STEPS = (4, 16)
SEEDS = (11, 12, 13)
IMAGES = 32


def check_fidelity(head: Trained, exported: Exported, bar: Bar) -> tuple[ChainFidelity, ...]:
    """Run the head's chains of `STEPS` calls (DDIM) from the cut, by torch and by the exported network.

    Raises:
        ParityFailed: images agree less than the bar asks, or are further from torch's than torch's other seeds are.
    """
    return tuple(_chain(head, exported, bar, steps) for steps in sorted({min(n, head.t_cut) for n in STEPS}))


def _chain(head: Trained, exported: Exported, bar: Bar, steps: int) -> ChainFidelity:
    count = max(IMAGES, head.labels) if head.labels <= 4 * IMAGES else IMAGES
    trained = [images_of(head, steps, count, seed) for seed in SEEDS]
    ours = [_images_by(head, exported, steps, count, seed) for seed in SEEDS]
    psnr = np.array([psnr_db(a, b) for a, b in zip(ours, trained, strict=True)])
    distance = np.array([frechet(a, b) for a, b in zip(ours, trained, strict=True)])
    floor = np.array([frechet(a, b) for a, b in zip(trained, trained[1:] + trained[:1], strict=True)])
    if not (psnr.min() >= bar.psnr_db and distance.mean() <= floor.mean()):
        raise ParityFailed(
            f"images of {steps} steps agree with the trained head's by {psnr.min():.1f} dB (at least {bar.psnr_db:g}) and "
            f"are {distance.mean():.2g} from them (at most {floor.mean():.2g}); no bundle was written, "
            "export at a higher precision"
        )
    return ChainFidelity(
        steps=steps,
        seeds=len(SEEDS),
        images=count,
        allowed_psnr_db=bar.psnr_db,
        psnr_db=float(psnr.mean()),
        psnr_db_spread=float(psnr.std(ddof=1)),
        psnr_db_least=float(psnr.min()),
        frechet=float(distance.mean()),
        frechet_spread=float(distance.std(ddof=1)),
        frechet_floor=float(floor.mean()),
        frechet_floor_spread=float(floor.std(ddof=1)),
    )


def _images_by(head: Trained, exported: Exported, steps: int, count: int, seed: int) -> NDArray[np.float32]:
    x, label = start_of(head, count, seed)

    def predict_eps(x_t: NDArray[np.float32], t: NDArray[np.int64]) -> NDArray[np.float32]:
        return exported.predict(Inputs(x_t, t, label))

    return np.asarray(sampling.run(head.schedule, predict_eps, x, head.plan(steps), clip=CLIP), np.float32)


def psnr_db(images: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio of images in [-1, 1], in dB, at most `MAX_PSNR_DB`; NaN stays NaN."""
    error = float(np.mean((images.astype(np.float64) - reference) ** 2))
    return error if np.isnan(error) else min(10 * np.log10(4 / max(error, 1e-300)), MAX_PSNR_DB)


def frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The Fréchet distance of the Gaussians fitted to two sets of images (N, C, H, W), in pixels.

    ‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2(Σ_a Σ_b)^½). With Σ = XᵀX of the centred rows X/√(N-1), tr (Σ_a Σ_b)^½ is the sum of
    the singular values of X_a X_bᵀ: an N×N matrix, however large the images are.
    """
    rows = [images.reshape(len(images), -1).astype(np.float64) for images in (a, b)]
    if not all(np.isfinite(row).all() for row in rows):
        return float("nan")
    means = [row.mean(axis=0) for row in rows]
    centred = [(row - mean) / np.sqrt(len(row) - 1) for row, mean in zip(rows, means, strict=True)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    spread = sum(float((x**2).sum()) for x in centred) - 2 * cross
    return float(max(((means[0] - means[1]) ** 2).sum() + spread, 0.0))
