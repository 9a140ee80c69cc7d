"""The answer to one request: samples come in as they are done, parts go out as they are complete."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from broker.messages import DenoiseV1, LatentsV1

# Room in a part for everything that is not samples.
ENVELOPE_BYTES = 1024


@dataclass(frozen=True)
class Timing:
    """step_seconds: mean time of this request's steps; queued_seconds: from taking it to its first step."""

    step_seconds: float
    queued_seconds: float


class Answer:
    """Collects the samples of a request and cuts them into parts of bounded size.

    The cut depends on the request alone, so two workers that answer the same request send the same parts.
    """

    def __init__(self, request: DenoiseV1, backbone_version: int, part_bytes: int) -> None:
        self._request = request
        self._version = backbone_version
        sample_bytes = math.prod(request.shape) * np.dtype(request.dtype).itemsize
        self._per_part = max(1, (part_bytes - ENVELOPE_BYTES) // sample_bytes)
        self._samples = np.zeros((request.n, *request.shape), np.dtype(request.dtype))
        self._there = np.zeros(request.n, np.bool_)
        self._taken: set[int] = set()

    @property
    def parts(self) -> int:
        """How many parts the answer has."""
        return -(-self._request.n // self._per_part)

    @property
    def complete(self) -> bool:
        """Whether every part was taken."""
        return len(self._taken) == self.parts

    def put(self, first: int, samples: npt.NDArray[np.float32]) -> None:
        """Samples first..first+k-1 are done: (k, C, H, W) float32, narrowed here to what was asked for."""
        limit = np.finfo(self._samples.dtype).max
        self._samples[first : first + len(samples)] = np.clip(samples, -limit, limit)
        self._there[first : first + len(samples)] = True

    def take(self, timing: Timing) -> list[LatentsV1]:
        """The parts that have become complete since the last call."""
        ready = [
            part
            for part in range(self.parts)
            if part not in self._taken and self._there[self._rows(part)].all()
        ]
        self._taken.update(ready)
        return [self._message(part, timing) for part in ready]

    def _rows(self, part: int) -> slice:
        return slice(part * self._per_part, (part + 1) * self._per_part)

    def _message(self, part: int, timing: Timing) -> LatentsV1:
        request = self._request
        return LatentsV1(
            request_id=request.request_id,
            part=part,
            parts=self.parts,
            first=part * self._per_part,
            x=self._samples[self._rows(part)],
            t_stop=request.t_stop,
            schedule_id=request.schedule_id,
            backbone_version=self._version,
            evaluations=len(request.plan) - 1,
            step_seconds=timing.step_seconds,
            queued_seconds=timing.queued_seconds,
        )
