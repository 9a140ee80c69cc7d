"""Axial slices of MRI volumes, with what the radiologists' maps say of each: folders as of BraTS, or of any NIfTI files.

Source of the layout and of the maps: Menze et al. 2015, "The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS)".
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.data.dataset import Dataset, drawn
from evaluation.data.images import LabelledImages
from evaluation.data.phantoms import LABEL_NAMES
from evaluation.data.resizing import check_memory, check_size, resized
from evaluation.data.volumes import Patient, depth, find_patients, read_map, read_scan
from evaluation.errors import DataError

Pixel = TypeVar("Pixel", np.float32, np.bool_)
ATTRIBUTE_NAMES = ("lesion", "side_right", "size")
# Of the height of a head: from the lower end of the ventricles to above them.
SLICES = (0.4, 0.7)


def load_nifti(
    root: Path,
    *,
    slices: tuple[float, float] | tuple[int, int] = SLICES,
    modalities: tuple[str, ...] = ("flair",),
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Axial slices: (N, modalities, H, W) float32 in [-1, 1], each volume brought to its own percentiles.

    The picture's top is the front of the head, its right the patient's right. Where patients have maps (…_seg), labels are 0
    no lesion, 1 left, 2 right, and attributes are `lesion` and `side_right`, 0 or 1, and `size`, the share of the slice's
    tissue that is marked; without maps there is one label and no attribute. Patients are the groups. The owners are the
    folders right below `root`, when there are two or more and each holds several patients, as of several clinics.

    Args:
        root: the folder with all patients.
        slices: first and last slice: as two floats, shares of the height in [0, 1]; as two ints, indices from 0, the last
            one included.
        modalities: which scans of BraTS to take, each a channel.
        image_size: the middle square of each slice is brought to this many pixels. None leaves slices as they are, and then
            all volumes must be alike.
        limit: at most so many slices, drawn evenly. Patients without a slice drawn are not read.
        seed: of that draw.

    Raises:
        DataError: volumes that are missing, damaged or do not match, or slices that there are not.
    """
    if image_size is not None:
        check_size(image_size)
    patients = find_patients(root, modalities)
    planned = [(p, z) for p, patient in enumerate(patients) for z in _range(patient, slices)]
    chosen = [planned[row] for row in drawn(len(planned), limit, seed)]
    parts = _read_all(root, patients, chosen, image_size)
    images = np.concatenate([part for part, _ in parts])
    attributes = np.concatenate([known for _, known in parts])
    group = np.asarray([p for p, _ in chosen], dtype=np.int32)
    owner, owner_names = _owners(patients)
    has_maps = attributes.shape[1] > 0
    labels = attributes[:, 0] * (1 + attributes[:, 1]) if has_maps else np.zeros(len(images))
    return Dataset(
        name=root.name or str(root),
        images=LabelledImages(
            images, labels.astype(np.int32), attributes, ATTRIBUTE_NAMES if has_maps else ()
        ),
        label_names=LABEL_NAMES if has_maps else ("slice",),
        owner=None if owner is None else owner[group],
        owner_names=owner_names,
        description=f"{len(images)} axial slices of {len(np.unique(group))} patients",
        group=group,
    )


def _range(patient: Patient, slices: tuple[float, float]) -> range:
    """The slices to take of one patient."""
    first, last = slices
    height = depth(patient.scans[0])
    if isinstance(first, int) and isinstance(last, int):
        if not 0 <= first <= last < height:
            raise DataError(
                f"{patient.scans[0]} has slices 0 to {height - 1}, so {first} to {last} is no range of them"
            )
        return range(first, last + 1)
    if not 0.0 <= first <= last <= 1.0:
        raise DataError(
            f"slices from {first} to {last} of the height: give two shares from 0 to 1, ascending"
        )
    return range(round(first * (height - 1)), round(last * (height - 1)) + 1)


def _read_all(
    root: Path, patients: tuple[Patient, ...], chosen: Sequence[tuple[int, int]], image_size: int | None
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Patient after patient, the slices chosen and their attributes; only one patient's volumes are in memory at a time."""
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for number in sorted({p for p, _ in chosen}):
        images, known = _read_patient(patients[number], [z for p, z in chosen if p == number], image_size)
        if not parts:
            check_memory(str(root), len(chosen), images.shape[1:])
        elif images.shape[1:] != parts[0][0].shape[1:]:
            raise DataError(
                f"{patients[number].scans[0]} gives slices of {images.shape[2]}×{images.shape[3]} pixels, the first "
                f"patient of {parts[0][0].shape[2]}×{parts[0][0].shape[3]}: give an image size to bring them to"
            )
        parts.append((images, known))
    return parts


def _read_patient(
    patient: Patient, heights: list[int], image_size: int | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One patient's slices (n, C, H, W) and their attributes (n, 3), or (n, 0) without a map."""
    channels: list[NDArray[np.float32]] = []
    for path in patient.scans:
        scan = read_scan(path)
        if channels and scan.shape != channels[0].shape:
            raise DataError(
                f"{path} has shape {scan.shape}, {patient.scans[0].name} has {channels[0].shape}: "
                "the scans of one patient must be registered to each other"
            )
        channels.append(scan)
    images = np.stack([_pictures(channel[:, :, heights]) for channel in channels], axis=1)
    known = np.zeros((len(heights), 0), dtype=np.float32)
    if patient.segmentation is not None:
        marked = _pictures(read_map(patient.segmentation, channels[0].shape)[:, :, heights])
        known = _known(marked, images[:, 0] > -1)
    return images if image_size is None else resized(images, image_size), known


def _pictures(voxels: NDArray[Pixel]) -> NDArray[Pixel]:
    """Slices as one looks at them: (X, Y, n) → (n, Y, X), the front of the head on top."""
    return voxels.transpose(2, 1, 0)[:, ::-1]


def _known(marked: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The attributes of each slice from what is marked and what is tissue, (n, H, W) each: (n, 3) float32."""
    count = marked.sum(axis=(1, 2))
    lesion = count > 0
    size = count / np.maximum((tissue | marked).sum(axis=(1, 2)), 1)
    side_right = lesion & (_middle(marked) > _middle(tissue))
    return np.stack([lesion, side_right, size], axis=1).astype(np.float32)


def _middle(where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean column of each picture's pixels that are true, 0 where none is: (n,) float64."""
    columns = where.sum(axis=1)
    middle: NDArray[np.float64] = columns @ np.arange(where.shape[2]) / np.maximum(columns.sum(axis=1), 1)
    return middle


def _owners(patients: tuple[Patient, ...]) -> tuple[NDArray[np.int32] | None, tuple[str, ...]]:
    """Whose each patient is, where the folders right below the root look like clinics."""
    tops = [patient.place[0] if patient.place else "" for patient in patients]
    counts = Counter(tops)
    if "" in counts or len(counts) < 2 or min(counts.values()) < 2:
        return None, ()
    names = sorted(counts)
    return np.asarray([names.index(top) for top in tops], dtype=np.int32), tuple(names)
