"""MRI volumes as files: which belong to which patient, and how one is read and brought to a common scale."""

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import OrientationError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from evaluation.data.places import files_under
from evaluation.errors import DataError

# What BraTS calls the scans of one patient, and the map of what the radiologists saw.
MODALITIES = ("flair", "t1", "t1ce", "t2")
SEGMENTATION = "seg"
_SCAN = re.compile(rf"(?P<patient>.+)_(?P<kind>{'|'.join(MODALITIES)}|{SEGMENTATION})")
_SUFFIX = re.compile(r"\.nii(\.gz)?$")
# A header may claim any shape; a head at a third of a millimetre has fewer voxels than this.
_MOST_VOXELS = 2**28
# Brightest and darkest voxels beyond these shares are artefacts, and would squeeze the rest together.
_PERCENTILES = (0.5, 99.5)
_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, zlib.error)


@dataclass(frozen=True)
class Patient:
    """The files of one patient. place: the folders it lies in, from the root. scans: one for each channel, in order."""

    name: str
    place: tuple[str, ...]
    scans: tuple[Path, ...]
    segmentation: Path | None


def find_patients(root: Path, modalities: tuple[str, ...]) -> tuple[Patient, ...]:
    """The patients under a folder, sorted by place and name.

    Files called …_flair, …_t1, …_t1ce, …_t2 and …_seg, as in BraTS, are scans of one patient. Where no file is called so,
    every volume is a patient with one channel; a …_seg beside it is its map.

    Args:
        root: the folder.
        modalities: which scans to take, each a channel; of no meaning where files are not called as in BraTS.

    Raises:
        DataError: no volume at all, an unknown modality, a patient that lacks a scan, or maps for some patients only.
    """
    if not modalities or not set(modalities) <= set(MODALITIES):
        raise DataError(f"modalities {', '.join(modalities)}: choose from {', '.join(MODALITIES)}")
    files = {
        (*file.relative_to(root).parent.parts, _SUFFIX.sub("", file.name)): file
        for file in files_under(root, "the .nii or .nii.gz files")
        if _SUFFIX.search(file.name)
    }
    if not files:
        raise DataError(f"{root} holds no .nii or .nii.gz files: is it the right folder?")
    matches = {key: _SCAN.fullmatch(key[-1]) for key in files}
    is_brats = any(match and match["kind"] != SEGMENTATION for match in matches.values())
    if is_brats:
        stems = {(*key[:-1], match["patient"]) for key, match in matches.items() if match}
        patients = tuple(_patient(root, files, stem, modalities) for stem in sorted(stems))
    else:
        stems = {key for key, match in matches.items() if match is None}
        patients = tuple(_patient(root, files, stem, ("",)) for stem in sorted(stems))
    if not patients:
        raise DataError(f"{root} holds maps (…_{SEGMENTATION}) and no scans: put the scans beside them")
    _check_maps(root, patients)
    return patients


def read_scan(path: Path) -> NDArray[np.float32]:
    """One scan: (X, Y, Z) float32 in [-1, 1]; x grows to the patient's right, y to the front, z to the top.

    -1 and 1 are the 0.5th and the 99.5th percentile of what is not background, the volume's least value.

    Raises:
        DataError: a file that is no volume, is cut short, is not finite, or is the same everywhere.
    """
    values = _read_volume(path)
    if not np.isfinite(values).all():
        raise DataError(f"{path} holds values that are not finite (NaN or infinity): export it again")
    shown = values[values > values.min()]
    low, high = np.percentile(shown, _PERCENTILES) if shown.size else (0.0, 0.0)
    if not high > low:
        raise DataError(f"{path} has hardly any value but one: is it a scan?")
    values -= np.float32(low)
    values *= np.float32(2 / (high - low))
    values -= np.float32(1)
    return np.clip(values, -1, 1, out=values)


def read_map(path: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a segmentation marks anything, in the same directions: (X, Y, Z) bool.

    Raises:
        DataError: a file that is no volume, or one of another shape than the patient's scans.
    """
    values = _read_volume(path)
    if values.shape != shape:
        raise DataError(
            f"{path} has shape {values.shape}, the scans beside it have {shape}: is it of another patient?"
        )
    return values > 0


def depth(path: Path) -> int:
    """How many axial slices a volume has, by its header alone.

    Raises:
        DataError: a file that is no volume.
    """
    opened = _open(path)
    towards_top = np.flatnonzero(nibabel.io_orientation(opened.affine)[:, 0] == 2)  # type: ignore[no-untyped-call]
    if len(towards_top) != 1:
        raise DataError(
            f"{path} does not say which of its axes points to the top of the head: export it again"
        )
    return int(opened.shape[towards_top[0]])


def _patient(
    root: Path, files: dict[tuple[str, ...], Path], stem: tuple[str, ...], modalities: tuple[str, ...]
) -> Patient:
    scans = []
    for modality in modalities:
        key = (*stem[:-1], f"{stem[-1]}_{modality}" if modality else stem[-1])
        if key not in files:
            raise DataError(
                f"{root.joinpath(*key)}.nii.gz is missing: every patient needs {', '.join(modalities)}"
            )
        scans.append(files[key])
    segmentation = files.get((*stem[:-1], f"{stem[-1]}_{SEGMENTATION}"))
    return Patient(stem[-1], stem[:-1], tuple(scans), segmentation)


def _check_maps(root: Path, patients: tuple[Patient, ...]) -> None:
    without = [patient.name for patient in patients if patient.segmentation is None]
    if 0 < len(without) < len(patients):
        raise DataError(
            f"{root}: {without[0]} has no map …_{SEGMENTATION} ({len(without)} of {len(patients)} lack one): "
            "give one for every patient, or for none"
        )


def _open(path: Path) -> SpatialImage:
    """The volume as it is stored; its voxels are not read yet."""
    try:
        opened: SpatialImage = nibabel.load(path)  # type: ignore[assignment]
        shape = opened.shape
    except (*_UNREADABLE, ImageFileError, HeaderDataError) as error:
        raise _unreadable(path, error) from error
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{path} has shape {shape}: give volumes with three axes, one scan a file")
    if not np.isfinite(opened.affine).all():
        raise DataError(f"{path} does not say where its voxels lie (NaN or infinity): export it again")
    if opened.get_data_dtype().kind not in "biuf":
        raise DataError(
            f"{path} holds {opened.get_data_dtype()} voxels: export the magnitude, one real number for each"
        )
    if np.prod(shape, dtype=np.float64) > _MOST_VOXELS:
        raise DataError(
            f"{path} claims {'×'.join(map(str, shape))} voxels: more than a head has, is it damaged?"
        )
    return opened


def _read_volume(path: Path) -> NDArray[np.float32]:
    """Every voxel, the axes turned to right, front and top: (X, Y, Z) float32."""
    opened = _open(path)
    try:
        turned: SpatialImage = nibabel.as_closest_canonical(opened)  # type: ignore[no-untyped-call]
        values = turned.get_fdata(caching="unchanged", dtype=np.float32)
    except (*_UNREADABLE, TypeError, gzip.BadGzipFile, OrientationError) as error:
        raise _unreadable(path, error) from error
    return values


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or "it ends too early"
    return DataError(f"{path} cannot be read as NIfTI ({reason}): it may be cut short, fetch it again")
