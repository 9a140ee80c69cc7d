"""One backbone on its device: a network call and the sampler's step after it, for a whole mixed batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.network import UNet
from server_worker.denoising.chain import FACTORS
from server_worker.versions import Backbone

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_COMPILED_STEPS = 1024


StepFunction = Callable[
    [UNet, Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]
]


@dataclass(frozen=True)
class Execution:
    """How networks are run.

    device: where they are.
    precision: "float32", or the type that matrix products and convolutions are cast to; the sampler's arithmetic is float32.
    sizes: compile for these batch sizes, and on a GPU record a CUDA graph of each; a batch is padded to the next of them.
    Empty: run eagerly at the very size.
    """

    device: torch.device
    precision: str = "float32"
    sizes: tuple[int, ...] = ()

    @property
    def asynchronous(self) -> bool:
        """Whether a call returns before the device has done it."""
        return self.device.type == "cuda"


class Runner:
    """Steps batches with the weights of one version at a time.

    Weights of another version of the same network can be loaded in place: what was compiled, and the addresses that CUDA graphs
    have recorded, stay good.

    is_warm: whether every size has been run once; set by `warm_up`.
    """

    def __init__(self, backbone: Backbone, execution: Execution) -> None:
        self.backbone = backbone
        self.is_warm = False
        self._execution = execution
        self._network = backbone.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._step: StepFunction = _compiled(execution.device) if execution.sizes else _step

    def fits(self, backbone: Backbone) -> bool:
        """Whether another version's weights could be loaded in place of these."""
        return backbone.manifest.unet == self.backbone.manifest.unet

    def load(self, backbone: Backbone) -> None:
        """Serve another version from now on, which must fit."""
        self._network.load_state_dict(backbone.network.state_dict())
        self.backbone = Backbone(backbone.manifest, backbone.schedule, self._network)

    @torch.inference_mode()
    def step(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None,
        factors: Tensor,
        *,
        x0_prev: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Move every sample one step along its own plan.

        x: (B, C, H, W) float32;  t: (B,) int64;  label: (B,) int64 or None;  factors: (B, FACTORS) float32;
        x0_prev, noise: like x, or None when no sample of the batch uses any.

        Returns x_s and x̂_0, both like x, to be copied before the next call.
        """
        count = len(x)
        if self._execution.sizes:
            x, t, label, factors, x0_prev, noise = self._padded(x, t, label, factors, x0_prev, noise)
        with self._autocast():
            moved, x0 = self._step(self._network, x, t, label, factors, x0_prev, noise)
        return moved[:count], x0[:count]

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self._execution.asynchronous:
            torch.cuda.synchronize(self._execution.device)

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = _AUTOCAST.get(self._execution.precision)
        return nullcontext() if dtype is None else torch.autocast(self._execution.device.type, dtype)

    def _padded(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None,
        factors: Tensor,
        x0_prev: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
        """The same batch at a compiled size, with zeros for what it does not use: one compiled step serves every mixture."""
        size = next((size for size in self._execution.sizes if size >= len(x)), len(x))
        return (
            _filled(x, size),
            _filled(t, size, 1),
            None if label is None else _filled(label, size),
            _filled(factors, size),
            # Two tensors, never one twice: what is compiled for the same input in two places holds for that case alone.
            x.new_zeros((size, *x.shape[1:])) if x0_prev is None else _filled(x0_prev, size),
            x.new_zeros((size, *x.shape[1:])) if noise is None else _filled(noise, size),
        )


def _step(
    network: UNet,
    x: Tensor,
    t: Tensor,
    label: Tensor | None,
    factors: Tensor,
    x0_prev: Tensor | None,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """x̂_0 = (x − √(1-ᾱ_t)·ε̂)/√ᾱ_t within its bound, x_s = k_x·x + k_0·x̂_0 + k_p·x̂_0^prev + k_z·z; see `diffusion.steps`."""
    eps = network(x.contiguous(memory_format=torch.channels_last), t, label).float()
    columns = factors.reshape(-1, FACTORS, 1, 1, 1)
    sigma, inverse_root, bound, k_x, k_0, k_p, k_z = columns.unbind(1)
    x0 = torch.clamp((x - sigma * eps) * inverse_root, -bound, bound)
    moved = torch.addcmul(k_x * x, k_0, x0)
    if x0_prev is not None:
        moved = torch.addcmul(moved, k_p, x0_prev)
    if noise is not None:
        moved = torch.addcmul(moved, k_z, noise)
    return moved, x0


def _compiled(device: torch.device) -> StepFunction:
    """The step as one compiled function per batch size; on a GPU, replayed as a CUDA graph."""
    # One for each size of each network that was ever served: the default of 8 would end the process.
    config: Any = torch._dynamo.config
    config.recompile_limit = config.accumulated_recompile_limit = _COMPILED_STEPS
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    compiled: StepFunction = torch.compile(_step, mode=mode, dynamic=False, fullgraph=True)
    return compiled


def _filled(values: Tensor, size: int, value: float = 0) -> Tensor:
    if len(values) == size:
        return values
    return torch.cat((values, values.new_full((size - len(values), *values.shape[1:]), value)))
