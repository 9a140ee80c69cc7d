"""Whom the engine is measured against: bare network calls, and diffusers' DDIM pipeline with the same network."""

import time
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from torch import Tensor, nn

from benchmarks.engine_loads import SCHEDULE, shape_of
from diffusion.network import UNet


@torch.inference_mode()
def bare_calls_per_second(network: UNet, device: torch.device, samples: int, seconds: float) -> float:
    """Evaluations a second of nothing but the network, called again and again at one batch size."""
    x = torch.randn((samples, *shape_of(network.config)), device=device).contiguous(
        memory_format=torch.channels_last
    )
    t = torch.full((samples,), 500, device=device)
    network(x, t)
    _synchronize(device)
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        network(x, t)
        _synchronize(device)
        calls += 1
    return calls * samples / (time.perf_counter() - started)


class _Unet(nn.Module):
    """The network as diffusers wants to be given one."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network
        self.config = SimpleNamespace(
            sample_size=network.config.image_size, in_channels=network.config.in_channels
        )

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        steps = t.to(x.device).expand(len(x)) + 1  # diffusers counts from 0
        return SimpleNamespace(sample=self.network(x, steps))


def ddim_pipeline(weights: UNet, layout: torch.memory_format = torch.contiguous_format) -> Any:
    """Diffusers' pipeline around the same weights, in a network of its own, and the same noise schedule."""
    network = UNet(weights.config).to(next(weights.parameters()).device).eval().requires_grad_(False)
    network.load_state_dict(weights.state_dict())
    network = network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs want a dtype beside it
    betas = 1 - SCHEDULE.alpha_bar[1:] / SCHEDULE.alpha_bar[:-1]
    make_pipeline: Any = DDIMPipeline
    make_scheduler: Any = DDIMScheduler
    pipeline = make_pipeline(_Unet(network), make_scheduler(trained_betas=betas, clip_sample=True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ddim_seconds(pipeline: Any, work: list[tuple[int, int]]) -> float:
    """Seconds for (samples, evaluations) one request after the other."""
    started = time.perf_counter()
    for samples, evaluations in work:
        with torch.inference_mode():
            pipeline(batch_size=samples, num_inference_steps=evaluations, output_type="pt")
    _synchronize(pipeline.unet.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
