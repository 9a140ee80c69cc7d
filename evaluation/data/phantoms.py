"""Brain phantoms of three clinics that differ as real ones do, with what is known of each patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.data.anatomy import HEAD_HEIGHT, HEAD_WIDTH, Patients, draw_slices
from evaluation.data.dataset import Dataset
from evaluation.data.images import LabelledImages
from evaluation.errors import DataError

PHANTOMS = 2000
SMALLEST_SIZE = 16
LABEL_NAMES = ("no lesion", "lesion left", "lesion right")
ATTRIBUTE_NAMES = ("lesion", "side_right", "size", "contrast")
# Where a lesion stops being small, and where it begins to be large.
SIZE_BOUNDS = (1 / 3, 2 / 3)
_LEAST_SIZE = 0.05
_LEAST_RADIUS = 0.085


@dataclass(frozen=True)
class Clinic:
    """How one clinic's slices differ from another's.

    share: of all patients. prevalence: share of its patients with a lesion. contrast: the range of its scanner's, in
    [0, 1]. scale: mean size of a head in its field of view. tilt: mean turn of a head, in radians. noise: standard
    deviation of either part of the signal, whose full range is 1. ventricles: their mean size, larger in older patients.
    """

    name: str
    share: float
    prevalence: float
    contrast: tuple[float, float]
    scale: float
    tilt: float
    noise: float
    ventricles: float


CLINICS = (
    Clinic("north", 0.40, 0.35, (0.60, 1.00), 0.97, 0.00, 0.020, 1.00),
    Clinic("east", 0.35, 0.60, (0.30, 0.70), 0.86, 0.10, 0.035, 1.25),
    Clinic("south", 0.25, 0.80, (0.10, 0.50), 0.92, -0.10, 0.045, 0.85),
)

_WORDINGS = {
    "none": ("no lesion", "a brain without a lesion", "a healthy brain", "nothing abnormal"),
    "some": (
        "a {size} lesion on the {side}",
        "{side} side, {size} lesion",
        "a brain with a {size} lesion on the {side} side",
        "on the {side} there is a {size} lesion",
    ),
}
WORDINGS = len(_WORDINGS["none"])


def load_phantoms(n: int = PHANTOMS, *, size: int = 32, seed: int = 0) -> Dataset:
    """Slices of n patients, each drawn once, mixed over the clinics.

    Images are (n, 1, size, size) float32 in [-1, 1]. Labels: 0 no lesion, 1 on the left, 2 on the right. Attributes: `lesion`
    and `side_right`, 0 or 1; `size`, in [0.05, 1], and 0 without a lesion, as is the side; `contrast` of the scan, in [0, 1].
    Sides are those of the head's midline, as one looks at the picture. The owners are the clinics, in the shares of `CLINICS`.

    Raises:
        DataError: fewer phantoms than clinics, or slices too small to show anything.
    """
    if n < len(CLINICS) or size < SMALLEST_SIZE:
        raise DataError(
            f"{n} phantoms of {size}×{size}: ask for {len(CLINICS)} or more, of {SMALLEST_SIZE} pixels or more"
        )
    rng = np.random.default_rng(seed)
    owner = _owners(n, rng)
    attributes = _attributes(owner, rng)
    return Dataset(
        name=f"phantoms{size}",
        images=LabelledImages(
            draw_slices(_patients(owner, attributes, _least_radius(size), rng), size, rng),
            (attributes[:, 0] * (1 + attributes[:, 1])).astype(np.int32),
            attributes,
            ATTRIBUTE_NAMES,
        ),
        label_names=LABEL_NAMES,
        owner=owner,
        owner_names=tuple(clinic.name for clinic in CLINICS),
        description=f"{size}×{size} procedural brain slices of {len(CLINICS)} clinics, with and without a lesion",
    )


def caption(attributes: NDArray[np.float32], *, wording: int = 0) -> str:
    """What one phantom shows, in words: "a small lesion on the left", or "no lesion".

    Args:
        attributes: (A,) float32, in the order of `ATTRIBUTE_NAMES`.
        wording: which of the `WORDINGS` ways to put it.

    Raises:
        DataError: too few attributes, or a wording that there is not.
    """
    if attributes.shape != (len(ATTRIBUTE_NAMES),) or not 0 <= wording < WORDINGS:
        raise DataError(
            f"attributes of shape {attributes.shape} and wording {wording}: give {', '.join(ATTRIBUTE_NAMES)}, "
            f"and a wording from 0 to {WORDINGS - 1}"
        )
    lesion, side_right, size, _ = attributes.tolist()
    if lesion < 0.5:
        return _WORDINGS["none"][wording]
    words = ("small", "medium", "large")[int(np.searchsorted(SIZE_BOUNDS, size, side="right"))]
    return _WORDINGS["some"][wording].format(size=words, side="right" if side_right >= 0.5 else "left")


def captions(images: LabelledImages, *, seed: int = 0) -> tuple[str, ...]:
    """A caption for each of these phantoms, in wordings drawn by chance."""
    wordings = np.random.default_rng(seed).integers(WORDINGS, size=len(images))
    return tuple(
        caption(row, wording=int(wording)) for row, wording in zip(images.attributes, wordings, strict=True)
    )


def _owners(n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Whose patient each is: (n,) int32, in the clinics' shares to one patient, in random order."""
    cuts = np.cumsum([clinic.share for clinic in CLINICS])
    middle = (np.arange(n) + 0.5) / n
    owners: NDArray[np.int32] = rng.permutation(np.searchsorted(cuts[:-1], middle)).astype(np.int32)
    return owners


def _attributes(owner: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float32]:
    """What is known of each patient, in the order of ATTRIBUTE_NAMES: (n, 4) float32."""
    n = len(owner)
    lesion = rng.random(n) < _of_clinic(owner, "prevalence")
    side_right = lesion & (rng.random(n) < 0.5)
    size = np.where(lesion, rng.uniform(_LEAST_SIZE, 1.0, n), 0.0)
    low, high = np.asarray([clinic.contrast for clinic in CLINICS])[owner].T
    columns = (lesion, side_right, size, rng.uniform(low, high))
    return np.stack(columns, axis=1).astype(np.float32)


def _least_radius(size: int) -> float:
    """Of a lesion of size 0, in half widths of a picture of `size` pixels: one pixel at least, or nobody could see it."""
    return max(_LEAST_RADIUS, 2 / size)


def _patients(
    owner: NDArray[np.int32],
    attributes: NDArray[np.float32],
    least_radius: float,
    rng: np.random.Generator,
) -> Patients:
    """Everything a slice is drawn from: the attributes, the clinic's habits, and chance."""
    n = len(owner)
    lesion, side_right, size, contrast = attributes.T
    radius = lesion * (least_radius + 0.185 * size)
    reach, angle = rng.uniform(0.38, 0.60, n), rng.uniform(-1.1, 1.1, n)
    # A lesion keeps to its side of the midline, however large.
    beside = np.maximum(reach * HEAD_WIDTH * np.cos(angle), 0.05 + 0.9 * radius)
    values = {
        "scale": _of_clinic(owner, "scale") * rng.normal(1.0, 0.03, n).clip(0.92, 1.06),
        "tilt": _of_clinic(owner, "tilt") + rng.normal(0.0, 0.06, n).clip(-0.18, 0.18),
        "shift_x": rng.normal(0.0, 0.025, n).clip(-0.06, 0.06),
        "shift_y": rng.normal(0.0, 0.02, n).clip(-0.05, 0.05),
        "width": rng.normal(1.0, 0.03, n).clip(0.92, 1.08),
        "ventricles": _of_clinic(owner, "ventricles") * rng.normal(1.0, 0.12, n).clip(0.7, 1.4),
        "contrast": contrast,
        "noise": _of_clinic(owner, "noise"),
        "lesion_radius": radius,
        "lesion_x": beside * np.where(side_right > 0.5, 1.0, -1.0),
        "lesion_y": reach * HEAD_HEIGHT * np.sin(angle),
    }
    return Patients(**{name: value.astype(np.float32) for name, value in values.items()})


def _of_clinic(owner: NDArray[np.int32], habit: str) -> NDArray[np.float64]:
    """One habit of each patient's clinic: (n,) float64."""
    return np.asarray([getattr(clinic, habit) for clinic in CLINICS], dtype=np.float64)[owner]
