"""Released samples, on their way up."""

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PlainValidator, model_validator

from broker.contract.fields import MAX_T, Array, Count, Labels, ScheduleId, array_of, check_labels, optional
from broker.contract.message import Message


class SamplesV1(Message):
    """Released samples on their way to the trainer.

    Attributes:
        schedule_id: digest of the ᾱ table that the samples were noised with.
        t_cut: the step of the release; at least 1, for a clean image is never sent.
        release: which release of these images this is, from 0.
        x: (N, C, H, W) float16, float32, or int8 with `scale`; x_c, or x_t where `t` is given.
        scale: (N,) float32, the largest magnitude of each sample; value = x·scale/127. Present exactly for int8.
        labels: (N,) int32, not negative, or None.
        t: (N,) int32 in (t_cut, MAX_T], the step each sample was noised to by the device (policy `pairs`), or None.
        noise: (N, C, H, W) float16, the ε of `pairs`; present exactly when `t` is.
    """

    type_name: ClassVar[str] = "samples.v1"

    schedule_id: ScheduleId
    t_cut: Annotated[int, Field(ge=1, le=MAX_T)]
    release: Count
    x: Annotated[Array, PlainValidator(array_of(("float16", "float32", "int8"), 4))]
    scale: Annotated[npt.NDArray[np.float32] | None, optional(array_of(("float32",), 1))] = None
    labels: Labels = None
    t: Annotated[npt.NDArray[np.int32] | None, optional(array_of(("int32",), 1))] = None
    noise: Annotated[npt.NDArray[np.float16] | None, optional(array_of(("float16",), 4))] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        n = self.x.shape[0]
        self._check_scale(n)
        check_labels(self.labels, n)
        self._check_pairs(n)
        return self

    def _check_scale(self, n: int) -> None:
        if (self.x.dtype == np.int8) != (self.scale is not None):
            raise ValueError("scale must be given for int8, and for int8 only")
        if self.scale is None:
            return
        if self.scale.shape[0] != n:
            raise ValueError(f"scale must have one entry per sample: {n}, not {self.scale.shape[0]}")
        if self.scale.min() < 0:
            raise ValueError("scale must not be negative")
        if self.x.min() < -127:
            raise ValueError("int8 values must lie in [-127, 127]")

    def _check_pairs(self, n: int) -> None:
        if (self.t is None) != (self.noise is None):
            raise ValueError("t and noise must be given together")
        if self.t is None or self.noise is None:
            return
        if self.t.shape[0] != n:
            raise ValueError(f"t must have one entry per sample: {n}, not {self.t.shape[0]}")
        if self.t.min() <= self.t_cut or self.t.max() > MAX_T:
            raise ValueError(f"every t must lie above t_cut and not above {MAX_T}")
        if self.noise.shape != self.x.shape:
            raise ValueError("noise must have the shape of x")

    @classmethod
    def pack(
        cls,
        x: npt.NDArray[np.floating[Any]],
        *,
        schedule_id: str,
        t_cut: int,
        release: int,
        dtype: Literal["float16", "float32", "int8"] = "float16",
        labels: npt.NDArray[np.integer[Any]] | None = None,
        t: npt.NDArray[np.integer[Any]] | None = None,
        noise: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Self:
        """Builds a message from float samples, narrowed to `dtype`.

        float16 keeps about 74 dB of a standard normal, int8 with a scale per sample about 39 dB at half the size.

        Args:
            x: (N, C, H, W) float32, finite; beyond ±65504 float16 overflows and is refused.
            schedule_id: as in the message.
            t_cut: as in the message.
            release: as in the message.
            dtype: the element type on the wire.
            labels: (N,) integers, or None.
            t: (N,) integers, or None.
            noise: (N, C, H, W) floats, or None; sent as float16.
        """
        narrow, scale = _quantise(x) if dtype == "int8" else (_narrow(x, dtype), None)
        return cls(
            schedule_id=schedule_id,
            t_cut=t_cut,
            release=release,
            x=narrow,
            scale=scale,
            labels=None if labels is None else labels.astype(np.int32),
            t=None if t is None else t.astype(np.int32),
            noise=None if noise is None else _narrow(noise, "float16").astype(np.float16, copy=False),
        )

    def dequantised(self) -> npt.NDArray[np.float32]:
        """Returns x as (N, C, H, W) float32, a new writable array; int8 becomes x·scale/127."""
        x = self.x.astype(np.float32)
        if self.scale is not None:
            x *= (self.scale / np.float32(127)).reshape(-1, 1, 1, 1)
        return x


def _narrow(x: npt.NDArray[np.floating[Any]], dtype: str) -> Array:
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the message refuses with a reason
        return x.astype(dtype)


def _quantise(x: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Returns (N, C, H, W) int8 and the (N,) float32 largest magnitudes; each is off by at most scale/254."""
    if x.ndim != 4 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError("x must be a finite array (N, C, H, W) that is not empty")
    scale = np.abs(x).max(axis=(1, 2, 3)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(1)).reshape(-1, 1, 1, 1)
    return np.clip(np.rint(x / divisor * 127), -127, 127).astype(np.int8), scale
