"""A chain whose x stays where the network runs: one copy in, one copy out, however many steps there are."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from itertools import pairwise
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffusion.schedule import NoiseSchedule
from diffusion.steps import coefficients
from edge_agent.heads.runtime import running
from export.onnx_runtime import ort

OnStep = Callable[[int, int, float], None]
OnState = Callable[[int, NDArray[np.float32]], None]
_STEP_MODEL = "ddim_step.onnx"


class BoundChain:
    """DDIM without fresh noise, by a head's session and a session of the step on the same provider.

    session: of the head, see `Bundle.onnx`.  device: "cuda" or "cpu", where that session runs.  name: of the head, for people.
    Not for two threads at once.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: Literal["cuda", "cpu"],
        schedule: NoiseSchedule,
        name: str = "the head",
    ) -> None:
        self._session, self._device, self._schedule = session, device, schedule
        self._name = name
        self._has_labels = len(session.get_inputs()) > 2
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = files("edge_agent.heads").joinpath(_STEP_MODEL).read_bytes()
        self._step = ort.InferenceSession(model, options, providers=session.get_providers())

    def run(
        self,
        x: NDArray[np.float32],
        label: NDArray[np.int64],
        plan: Sequence[int],
        clip: float | None,
        on_step: OnStep | None = None,
        on_state: OnState | None = None,
    ) -> NDArray[np.float32]:
        """Denoise x (B, C, H, W) from `plan[0]` to `plan[-1]`; label is (B,), ignored by a head without labels.

        For `on_state`, x is copied to the host once a step; it stays on the device all the same.

        Returns (B, C, H, W) float32. Raises HeadError when the runtime fails.
        """
        # Two buffers in turn: a step reads one and writes the other. On the CPU a placed array is the caller's own memory.
        now, after = self._placed(x.copy()), self._empty(x.shape)
        eps, label_there = self._empty(x.shape), self._placed(label)
        if on_state is not None:
            on_state(0, x)
        for index, (t, s) in enumerate(pairwise(plan), start=1):
            started = perf_counter()
            self._predict(now, np.full(len(x), t, np.int64), label_there, eps)
            self._advance(now, eps, self._factors(t, s, clip), after)
            now, after = after, now
            if on_step is not None:
                on_step(t, s, perf_counter() - started)
            if on_state is not None:
                on_state(index, now.numpy())
        return np.array(now.numpy(), np.float32)

    def _predict(self, x: ort.OrtValue, t: NDArray[np.int64], label: ort.OrtValue, eps: ort.OrtValue) -> None:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_input("t", self._placed(t))
        if self._has_labels:
            binding.bind_ortvalue_input("label", label)
        binding.bind_ortvalue_output("eps", eps)
        with running(self._name):
            self._session.run_with_iobinding(binding)

    def _advance(
        self, x: ort.OrtValue, eps: ort.OrtValue, factors: NDArray[np.float32], after: ort.OrtValue
    ) -> None:
        binding = self._step.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_input("eps", eps)
        binding.bind_ortvalue_input("factors", self._placed(factors))
        binding.bind_ortvalue_output("x_next", after)
        self._step.run_with_iobinding(binding)
        # Without this a step's time would be that of asking for it.
        binding.synchronize_outputs()

    def _factors(self, t: int, s: int, clip: float | None) -> NDArray[np.float32]:
        step = coefficients(self._schedule, "ddim", np.array([t]), np.array([s]))
        alpha_bar = self._schedule.alpha_bar[t]
        bound = np.inf if clip is None else clip
        return np.array(
            ((1 - alpha_bar) ** 0.5, alpha_bar**0.5, bound, step.x[0], step.x0[0]), dtype=np.float32
        )

    def _placed(self, array: NDArray[np.generic]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _empty(self, shape: tuple[int, ...]) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
