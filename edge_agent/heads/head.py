"""The client's half of the chain: a bundle run by onnxruntime, from the cut down to the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from diffusion import sampling
from diffusion.errors import DiffusionError
from diffusion.plan import check_plan
from diffusion.schedule import NoiseSchedule
from edge_agent.allocation import trim
from edge_agent.errors import HeadError
from edge_agent.heads.bound_chain import BoundChain, OnState, OnStep
from edge_agent.heads.provider import CPU, CUDA, Fallback, Provider, check_provider, choose_provider
from edge_agent.heads.runtime import running
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.manifest import Manifest
from export.errors import BundleError
from export.onnx_runtime import ort

_log = structlog.get_logger(__name__)


class Head:
    """A head that is loaded, checked and ready to finish images.

    Attributes:
        manifest: what the head is and may be asked for.
        schedule: the schedule it was trained on, from the bundle itself.
        provider: where it runs, "cuda" or "cpu"; never another one than was chosen.
        fallback: why it runs on the CPU although something else was asked for, None when it does not.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: ort.InferenceSession,
        provider: Literal["cuda", "cpu"],
        fallback: str | None = None,
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.schedule: NoiseSchedule = bundle.schedule
        self.provider: Literal["cuda", "cpu"] = provider
        self.fallback = fallback
        self._session = session
        self._rested = True
        # On the CPU x is where it should be anyway.
        self._bound = (
            BoundChain(session, "cuda", bundle.schedule, self.manifest.name) if provider == "cuda" else None
        )

    @classmethod
    def load(
        cls,
        path: Path,
        provider: Provider = "auto",
        threads: int | None = None,
        fallback: Fallback = "error",
    ) -> "Head":
        """Read, check and load the bundle at `path`.

        Args:
            path: the bundle.
            provider: "cuda" or "cpu" mean just that; "auto" takes CUDA where onnxruntime has it, else the CPU.
            threads: of one network call on the CPU; None leaves it to onnxruntime (one per core).
            fallback: "cpu" takes the CPU where the provider is not there or does not start, and says so as an error in
                the log and in `Head.fallback`.

        Raises:
            HeadError: the bundle is damaged, onnxruntime refuses it, or the provider asked for is not there.
        """
        try:
            bundle = read_bundle(path)
        except BundleError as error:
            raise HeadError(str(error)) from error
        return cls.of(bundle, provider, threads, fallback)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        provider: Provider = "auto",
        threads: int | None = None,
        fallback: Fallback = "error",
    ) -> "Head":
        """Load a bundle that was read already; otherwise as `load`."""
        try:
            head = cls._on(bundle, choose_provider(provider, ort.get_available_providers()), threads)
        except HeadError as error:
            if fallback != "cpu" or provider == "cpu":
                raise
            head = cls._on(bundle, CPU, threads, str(error))
            _log.error("head_fell_back_to_cpu", head=bundle.manifest.name, reason=str(error))
        manifest = head.manifest
        if manifest.network.precision == "fp16" and head.provider == "cpu":
            _log.warning("head_is_slow_here", head=manifest.name, precision="fp16", provider="cpu")
        _log.info(
            "head_loaded",
            head=manifest.name,
            version=manifest.version,
            counter=manifest.counter,
            provider=head.provider,
        )
        return head

    @classmethod
    def _on(cls, bundle: Bundle, chosen: str, threads: int | None, fallback: str | None = None) -> "Head":
        session = _session(bundle, chosen, threads)
        _check_interface(bundle.manifest, session)
        return cls(bundle, session, "cuda" if chosen == CUDA else "cpu", fallback)

    def predict(
        self, x: NDArray[np.float32], t: NDArray[np.int64], label: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The predicted noise ε_θ(x_t, t, label).

        Args:
            x: (B, C, H, W) float32.
            t: (B,) int64 in `[t_first, t_cut]`.
            label: (B,) int64 in `[0, num_classes]`, the last for "no label"; ignored by an unconditional head.

        Returns:
            (B, C, H, W) float32.

        Raises:
            HeadError: the runtime fails at it.
        """
        feeds: dict[str, Any] = {"x": x, "t": t}
        if self.manifest.num_classes is not None:
            feeds["label"] = label
        self._rested = False
        with running(self.manifest.name):
            eps: NDArray[np.float32] = self._session.run(["eps"], feeds)[0]
        return eps

    def rest(self) -> None:
        """Give the memory of the last batches back to the system; to be called when there is no work for a while.

        onnxruntime keeps what its largest batch needed, tens of megabytes for a batch of 16, until a run tells it to let go.
        """
        if self._rested or self.provider == "cuda":
            return
        self._rested = True
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        feeds: dict[str, Any] = {
            "x": np.zeros((1, *self.manifest.image_shape), np.float32),
            "t": np.full(1, self.manifest.t_first, np.int64),
        }
        if self.manifest.num_classes is not None:
            feeds["label"] = np.zeros(1, np.int64)
        try:
            self._session.run(["eps"], feeds, options)
        except Exception as error:  # noqa: BLE001 - onnxruntime's own exceptions share no public root
            # Work will meet this too, and answer for it.
            _log.debug("head_did_not_rest", head=self.manifest.name, error=str(error))
        trim()

    def finish(
        self,
        x: NDArray[np.floating[Any]],
        plan: Sequence[int],
        *,
        sampler: str = "ddim",
        eta: float = 0.0,
        clip: float | None = 1.0,
        seeds: NDArray[np.uint64],
        samples: NDArray[np.int64],
        labels: NDArray[np.integer[Any]] | None = None,
        on_step: OnStep | None = None,
        on_state: OnState | None = None,
    ) -> NDArray[np.float32]:
        """Denoise a batch from `plan[0]` to `plan[-1]`, usually from the cut to 0.

        Args:
            x: (B, C, H, W) floats at noise level `plan[0]`, finite.
            plan: strictly decreasing steps, `t_cut >= plan[0]`, one network call for each but the last.
            sampler: "ddim", "ddpm" or "dpmpp2m".
            eta: DDIM's noise, 0 for none.
            clip: bound of the predicted image, None for none.
            seeds: (B,) of the samples' noise keys.
            samples: (B,) the samples' indices in their request; with the seed they key the noise.
            labels: (B,) in `[0, num_classes]`, None for no labels.
            on_step: told (t, s, seconds) after every step from t to s.
            on_state: shown (index, x), the samples at every place of the plan, from 0; not to be written to.

        Returns:
            (B, C, H, W) float32 at noise level `plan[-1]`.

        Raises:
            HeadError: the plan leaves the head's range, shapes, labels or values are wrong, or the runtime fails.
        """
        self._check_plan(plan)
        start = _checked_images(x, self.manifest.image_shape)
        label = self._checked_labels(labels, len(start))
        if self._bound is not None and sampler == "ddim" and eta == 0:
            return self._bound.run(start, label, plan, clip, on_step, on_state)

        def predict_eps(x_t: NDArray[np.float32], t: NDArray[np.int64]) -> NDArray[np.float32]:
            return self.predict(x_t, t, label)

        try:
            finished = sampling.run(
                self.schedule,
                predict_eps,
                start,
                tuple(plan),
                sampler,
                eta=eta,
                clip=clip,
                seeds=seeds,
                samples=samples,
                on_step=on_step,
                on_state=on_state,
            )
        except DiffusionError as error:
            raise HeadError(f"{self.manifest.name} cannot finish these images: {error}") from error
        return np.asarray(finished, dtype=np.float32)

    def _check_plan(self, plan: Sequence[int]) -> None:
        try:
            check_plan(tuple(plan), self.schedule.T)
        except DiffusionError as error:
            raise HeadError(f"{self.manifest.name} cannot follow the plan: {error}") from error
        if plan[0] > self.manifest.t_cut:
            raise HeadError(
                f"the plan starts at t={plan[0]}, but {self.manifest.name} owns t={self.manifest.t_first}.."
                f"{self.manifest.t_cut}; ask the server to denoise down to {self.manifest.t_cut}"
            )

    def _checked_labels(self, labels: NDArray[np.integer[Any]] | None, count: int) -> NDArray[np.int64]:
        classes = self.manifest.num_classes
        if labels is None:
            return np.full(count, classes or 0, dtype=np.int64)
        if classes is None:
            raise HeadError(f"{self.manifest.name} knows no labels; ask without one")
        wide = np.asarray(labels)
        if wide.shape != (count,) or wide.dtype.kind not in "iu":
            raise HeadError(f"{count} images need ({count},) integer labels, got {wide.dtype} {wide.shape}")
        if wide.min() < 0 or wide.max() > classes:
            raise HeadError(
                f"{self.manifest.name} knows the labels 0..{classes - 1} and {classes} for none, "
                f"got {wide.min()}..{wide.max()}"
            )
        return wide.astype(np.int64)


def _session(bundle: Bundle, chosen: str, threads: int | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A head is one chain of small operators: a second pool of threads only costs memory.
    options.inter_op_num_threads = 1
    if threads is not None:
        if threads < 1:
            raise HeadError(f"a head cannot run on {threads} threads; give 1 or more")
        options.intra_op_num_threads = threads
    # CPU behind CUDA: a few shape operators have no CUDA kernel. `check_provider` sees a fallback of the whole.
    providers = [chosen] if chosen == CPU else [chosen, CPU]
    try:
        session = ort.InferenceSession(bundle.onnx, options, providers=providers)
    except Exception as error:
        # onnxruntime's own exceptions share no public root.
        reason = str(error).strip().splitlines()[0]
        raise HeadError(
            f"onnxruntime {ort.__version__} cannot load {bundle.manifest.name}: {reason}; "
            "update onnxruntime, or export the head again"
        ) from error
    check_provider(chosen, session.get_providers())
    return session


def _check_interface(manifest: Manifest, session: ort.InferenceSession) -> None:
    wanted = ["x", "t"] if manifest.num_classes is None else ["x", "t", "label"]
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    image = list(session.get_inputs()[0].shape[1:])
    if inputs != wanted or outputs != ["eps"] or image != list(manifest.image_shape):
        raise HeadError(
            f"{manifest.name} takes {inputs} of {image} and gives {outputs}, "
            f"not {wanted} of {list(manifest.image_shape)} and ['eps'] as its manifest says; export it again"
        )


def _checked_images(x: NDArray[np.floating[Any]], image_shape: tuple[int, int, int]) -> NDArray[np.float32]:
    images = np.asarray(x)
    if images.ndim != 4 or images.shape[1:] != image_shape or images.shape[0] == 0:
        raise HeadError(f"the head finishes (B, {', '.join(map(str, image_shape))}), got {images.shape}")
    if images.dtype.kind != "f" or not np.isfinite(images).all():
        raise HeadError("the images to finish are not all finite numbers; ask the server again")
    return np.ascontiguousarray(images, dtype=np.float32)
