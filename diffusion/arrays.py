"""The border between float64 tables and the batches they scale, for numpy arrays and torch tensors alike.

Nothing here imports torch: a tensor is recognised by the method it must have anyway, and stays on its
device. The mathematics above this module therefore runs unchanged on a device without torch and on a GPU.
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

ArrayT = TypeVar("ArrayT")
"""A numpy array or a torch tensor; functions return the kind (and dtype, and device) they were given."""

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def is_tensor(x: object) -> bool:
    """Whether `x` is a torch tensor, found out without importing torch."""
    return hasattr(x, "new_tensor")


def gather(table: Float64, t: Any) -> Any:
    """Read `table` at every `t`, in float64.

    A tensor is returned for a tensor, an array for an array, a float for an int.

    table: (T+1,) float64;  t: int, (B,) integer array or (B,) integer tensor, each in [0, T].
    """
    if is_tensor(t):
        return t.double().new_tensor(table)[t]
    values = table[np.asarray(t)]
    return float(values) if np.ndim(t) == 0 else values


def column(values: Any, x: Any) -> Any:
    """One factor per sample, shaped to broadcast over `x`, in the kind, dtype and device of `x`.

    values: float, (B,) array or (B,) tensor;  x: (B, ...).  Returns (B, 1, ...) or (1, 1, ...).
    """
    shape = (-1, *(1,) * (x.ndim - 1))
    if not is_tensor(x):
        return np.asarray(values, dtype=x.dtype).reshape(shape)
    factors = values.to(x) if is_tensor(values) else x.new_tensor(values)
    return factors.reshape(shape)


def like(values: npt.NDArray[Any], x: ArrayT) -> ArrayT:
    """`values` in the kind, dtype and device of `x`; the shape is kept."""
    target: Any = x
    converted: Any = target.new_tensor(values) if is_tensor(x) else values.astype(target.dtype, copy=False)
    result: ArrayT = converted
    return result


def steps_like(t: int, x: Any) -> Any:
    """Step `t` for every sample of `x`: (B,) int64, in the kind and on the device of `x`."""
    batch = x.shape[0]
    if is_tensor(x):
        return x.new_zeros((batch,)).long() + t
    return np.full((batch,), t, dtype=np.int64)


def on_host(t: Any) -> Int64:
    """Step numbers, sample indices or the like as an int64 numpy array, wherever they were."""
    values = t.detach().cpu().numpy() if is_tensor(t) else np.asarray(t)
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(f"expected integers, got {values.dtype}")
    return values.astype(np.int64)
