"""The answer to one request: samples go out as soon as they are done, in messages of bounded size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from broker.contract.denoise import DenoiseV1, LatentsV1

# Room in a part for everything that is not samples.
ENVELOPE_BYTES = 1024


@dataclass(frozen=True)
class Timing:
    """step_seconds: mean time of this request's steps; queued_seconds: from taking it to its first step."""

    step_seconds: float
    queued_seconds: float


class Answer:
    """What of a request's samples has been sent.

    Which samples share a part depends on the company that the request had, so two workers may cut the same answer differently.
    A part says which samples it holds, and a sample is the same in all of them: the device needs every sample, not every part.
    """

    def __init__(self, request: DenoiseV1, backbone_version: int, part_bytes: int) -> None:
        self._request = request
        self.backbone_version = backbone_version
        sample_bytes = math.prod(request.shape) * np.dtype(request.dtype).itemsize
        self._per_part = max(1, (part_bytes - ENVELOPE_BYTES) // sample_bytes)
        self._parts = 0
        self._samples = 0

    @property
    def complete(self) -> bool:
        """Whether every sample has been sent."""
        return self._samples == self._request.n

    def parts(self, first: int, samples: npt.NDArray[np.float32], timing: Timing) -> Iterator[LatentsV1]:
        """Samples first..first+k-1 are done: (k, C, H, W) float32, narrowed here to what was asked for."""
        dtype = np.dtype(self._request.dtype)
        limit = np.finfo(dtype).max
        narrowed = np.clip(samples, -limit, limit).astype(dtype)
        self._samples += len(samples)
        for start in range(0, len(samples), self._per_part):
            yield self._message(first + start, narrowed[start : start + self._per_part], timing)
            self._parts += 1

    def _message(self, first: int, x: npt.NDArray[np.floating], timing: Timing) -> LatentsV1:
        request = self._request
        return LatentsV1(
            request_id=request.request_id,
            part=self._parts,
            parts=request.n,
            first=first,
            x=x,
            t_stop=request.t_stop,
            schedule_id=request.schedule_id,
            backbone_version=self.backbone_version,
            evaluations=len(request.plan) - 1,
            step_seconds=timing.step_seconds,
            queued_seconds=timing.queued_seconds,
        )
