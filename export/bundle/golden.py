"""The probe that travels with a head: a few inputs and what the trained network said, for a device to compare with."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.bundle.manifest import Manifest
from export.errors import BundleError

X, T, LABEL, EPS = "golden_x.npy", "golden_t.npy", "golden_label.npy", "golden_eps.npy"
GOLDEN_MEMBERS = (X, T, LABEL, EPS)


@dataclass(frozen=True, eq=False)
class Golden:
    """N probes, made from noise alone: no image of anybody is in them.

    x: (N, C, H, W) float32;  t: (N,) int64 in `[1, t_cut]`;  label: (N,) int64 in `[0, num_classes]`, zeros for a head
    without labels;  eps: (N, C, H, W) float32, of the trained network in single precision.
    """

    x: NDArray[np.float32]
    t: NDArray[np.int64]
    label: NDArray[np.int64]
    eps: NDArray[np.float32]

    def relative_rms(self, eps: NDArray[np.floating]) -> float:
        """How far `eps` (N, C, H, W) is from the golden one: RMS of the difference over its own RMS; NaN stays NaN."""
        difference = np.asarray(eps, np.float64) - self.eps
        return float(np.sqrt(np.mean(difference**2) / np.mean(self.eps.astype(np.float64) ** 2)))

    def members(self) -> dict[str, bytes]:
        """The four arrays as npy files, by member name."""
        arrays = ((X, self.x, "<f4"), (T, self.t, "<i8"), (LABEL, self.label, "<i8"), (EPS, self.eps, "<f4"))
        return {name: array_to_bytes(array.astype(dtype)) for name, array, dtype in arrays}

    @classmethod
    def from_members(cls, members: dict[str, bytes], manifest: Manifest) -> "Golden":
        """Read what `members` wrote. Raises BundleError for any other shape, type or range than the manifest's."""
        count = manifest.golden.count
        images = (count, *manifest.image_shape)
        x = array_from_bytes(members[X], X, "<f4", images)
        t = array_from_bytes(members[T], T, "<i8", (count,))
        label = array_from_bytes(members[LABEL], LABEL, "<i8", (count,))
        eps = array_from_bytes(members[EPS], EPS, "<f4", images)
        if not (np.isfinite(x).all() and np.isfinite(eps).all() and (eps != 0).any()):
            raise BundleError(f"{X} or {EPS} holds no usable numbers")
        if t.min() < manifest.t_first or t.max() > manifest.t_cut:
            raise BundleError(f"{T} leaves the steps {manifest.t_first}..{manifest.t_cut}")
        if label.min() < 0 or label.max() > (manifest.num_classes or 0):
            raise BundleError(f"{LABEL} holds labels that the head does not know")
        return cls(x.astype(np.float32), t.astype(np.int64), label.astype(np.int64), eps.astype(np.float32))


def array_to_bytes(array: NDArray[np.generic]) -> bytes:
    """The npy 1.0 file of an array of numbers."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def array_from_bytes(content: bytes, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """The array in an npy 1.0 file, which must be of this dtype and shape; read-only.

    The header is judged before anything it asks for is allocated.

    Raises:
        BundleError: another dtype, shape or length, or no npy file.
    """
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise BundleError(f"{name} is of another npy version than 1.0")
        found, fortran, found_dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise BundleError(f"{name} is not a numpy array") from error
    values = content[file.tell() :]
    expected_bytes = int(np.dtype(dtype).itemsize * np.prod([float(size) for size in shape]))
    if found != shape or fortran or found_dtype != np.dtype(dtype) or len(values) != expected_bytes:
        raise BundleError(f"{name} holds {found_dtype} {found}, not {np.dtype(dtype)} {shape}")
    return np.frombuffer(values, dtype).reshape(shape)
