"""What a device gives away: one noisy release per image, and what that costs.

What it costs, in μ and ε, is reckoned in `diffusion.ledger`; its functions can be had from here too.

The noise is a deterministic function of a secret of the device and of the image, so repeating a job
discloses nothing new.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion.arrays import Float32
from diffusion.errors import DiffusionError, ReleaseRefused
from diffusion.ledger import (
    detection,
    epsilon,
    epsilon_of_mu,
    gdp_mu,
    least_cut,
    mu_of_epsilon,
    norm_bound,
    sigma,
)
from diffusion.noise import normals
from diffusion.seal import Seal
from diffusion.split import Cut

__all__ = [
    "MIN_SECRET_BYTES",
    "Release",
    "check_release",
    "clip",
    "detection",
    "epsilon",
    "epsilon_of_mu",
    "gdp_mu",
    "image_digest",
    "least_cut",
    "mu_of_epsilon",
    "norm_bound",
    "release",
    "release_noise",
    "sigma",
]

MIN_SECRET_BYTES = 16

_SEAL = Seal()


@dataclass(frozen=True, eq=False)
class Release:
    """One image as it leaves the device, made by `release` and by nothing else.

    x_c: (C, H, W) float32, read-only;  schedule_id, t_cut: the point of the chain it lies on;  release: its
    index, 0 … K-1;
    digest: of the image before clipping, the ledger's key;  label: the class, or None;
    clip_norm: the C it was clipped to, or None;  norm_bound: the C that holds for its shape;  mu: what it costs,
    μ = 2C/σ;
    mark: proves to `check_release` that `release` has made it, and that it is still as it was.
    """

    x_c: Float32
    schedule_id: str
    t_cut: int
    release: int
    digest: str
    label: int | None
    clip_norm: float | None
    norm_bound: float
    mu: float
    mark: bytes

    def __post_init__(self) -> None:
        check_release(self)


def check_release(release: object) -> None:
    """Raise ReleaseRefused unless `release` is what the function of that name returned, unchanged since.

    So neither a look-alike, nor a copy with another field, nor one whose values were overwritten is taken for a
    release.
    """
    fields = vars(release) if type(release) is Release else {}
    if not _SEAL.is_mine(fields.get("mark"), _sealed(fields)):
        raise ReleaseRefused(
            "a Release is made by diffusion.privacy.release alone: it clips and adds the noise"
        )


def _sealed(fields: dict[str, Any]) -> tuple[bytes, ...]:
    """What the mark of a release speaks for: its values, and every other field."""
    x_c = fields.get("x_c")
    if not isinstance(x_c, np.ndarray):
        return ()
    others = sorted((name, value) for name, value in fields.items() if name not in {"x_c", "mark"})
    return (f"{x_c.dtype.str}{x_c.shape}".encode(), x_c.tobytes(), repr(others).encode())


def clip(x0: npt.NDArray[Any], norm: float | None) -> Float32:
    """Values into [-1, 1], then every image onto the ball of L2 norm `norm`.

    x0: (C, H, W) or (B, C, H, W) float;  norm: C > 0, or None for no bound beyond that of the values,
    √(C·H·W).

    Returns float32 of the same shape, of norm ≤ C after rounding.  Raises ReleaseRefused for NaN,
    infinities, integers, other ranks.
    """
    images = _checked(x0)
    if norm is not None and not norm > 0:
        raise DiffusionError(f"images cannot be clipped to norm {norm}: choose one above 0, or none")
    bounded: npt.NDArray[np.float64] = np.clip(images.astype(np.float64), -1, 1)
    if norm is not None:
        norms = np.sqrt(np.sum(bounded**2, axis=(-3, -2, -1), keepdims=True))
        # A hair below C, so that rounding to float32 cannot lift the norm over the bound the ledger relies on.
        bounded = np.where(norms > norm, bounded * (norm * (1 - 2.0**-20) / np.maximum(norms, norm)), bounded)
    return bounded.astype(np.float32)


def image_digest(x0: npt.NDArray[Any]) -> str:
    """64 hex digits that name an image: SHA-256 over its shape and its float32 values.

    Two files that decode to the same values are the same image; one changed pixel makes another.
    """
    image = _checked(x0)
    digest = hashlib.sha256(b"collafuse-image-v1")
    digest.update(np.array(image.shape, dtype="<i8").tobytes())
    digest.update((image.astype("<f4") + np.float32(0)).tobytes())  # -0.0 and 0.0 are one value
    return digest.hexdigest()


def release_noise(
    secret: bytes, digest: str, schedule_id: str, t_cut: int, release: int, *, shape: tuple[int, ...]
) -> Float32:
    """ε_c: standard normal noise that only the holder of `secret` can compute.

    HMAC-SHA-256 of everything the released values depend on keys a SHAKE-256 stream. Everything, because two
    releases that share their noise and differ elsewhere (in schedule, cut or clipping) are two equations for
    the image, and solve it exactly.

    digest: of the image *as released*, after clipping;  release: the index, 0 … K-1.  Returns `shape`
    float32.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise DiffusionError(
            f"a device secret needs {MIN_SECRET_BYTES} random bytes or more, this one has {len(secret)}"
        )
    address = f"collafuse-release-v1|{schedule_id}|{digest}|{t_cut}|{release}|{shape}".encode()
    key = hmac.digest(secret, address, "sha256")
    count = math.prod(shape)
    stream = hashlib.shake_256(key).digest(8 * (count + count % 2))
    return normals(np.frombuffer(stream, dtype="<u8"))[:count].astype(np.float32).reshape(shape)


def release(
    cut: Cut,
    x0: npt.NDArray[Any],
    secret: bytes,
    release_index: int = 0,
    *,
    clip_norm: float | None = None,
    label: int | None = None,
) -> Release:
    """Release one image: clip it and add the noise that belongs to it.

    x0: (C, H, W) float, values meant to lie in [-1, 1];  secret: the device's, 16 bytes or more;  clip_norm:
    C, or None.

    The same arguments give the same bytes.  Raises ReleaseRefused for a malformed image, and for a cut that
    leaves the image bare (t_c = 0) or nothing for the server (t_c = T).
    """
    if np.ndim(x0) != 3:
        raise ReleaseRefused(
            f"an image of shape {np.shape(x0)} was not released: expected (channels, height, width)"
        )
    if not 0 < cut.t_cut < cut.schedule.T:
        why = (
            "it would leave the device as it is"
            if cut.t_cut == 0
            else "the server would have no step to learn"
        )
        raise ReleaseRefused(
            f"an image was not released at cut ratio {cut.cut_ratio}: {why}; choose one between 0 and 1"
        )
    if release_index < 0:
        raise ReleaseRefused(f"an image has no release number {release_index}: they count from 0")
    clipped = clip(x0, clip_norm)
    noise = release_noise(
        secret, image_digest(clipped), cut.schedule.schedule_id, cut.t_cut, release_index, shape=clipped.shape
    )
    x_c = cut.release(clipped, noise)
    x_c.flags.writeable = False
    bound = norm_bound(clip_norm, clipped.shape)
    fields: dict[str, Any] = {
        "x_c": x_c,
        "schedule_id": cut.schedule.schedule_id,
        "t_cut": cut.t_cut,
        "release": release_index,
        "digest": image_digest(x0),
        "label": label,
        "clip_norm": clip_norm,
        "norm_bound": bound,
        "mu": gdp_mu(bound, cut.t_cut, cut.schedule),
    }
    return Release(**fields, mark=_SEAL.mark(_sealed(fields)))


def _checked(x0: npt.NDArray[Any]) -> npt.NDArray[Any]:
    images = np.asarray(x0)
    if images.dtype.kind != "f":
        raise ReleaseRefused(
            f"an image of {images.dtype} was refused: scale its values to floats in [-1, 1] first"
        )
    if images.ndim not in {3, 4} or images.size == 0:
        raise ReleaseRefused(
            f"an image of shape {images.shape} was refused: expected (channels, height, width)"
        )
    if not np.isfinite(images).all():
        raise ReleaseRefused("an image was refused: it holds values that are not numbers (NaN or infinite)")
    return images
