"""The heads that the benchmarks of the device run: their speed does not depend on what they have learned."""

from pathlib import Path

import torch

from collafuse.demo.design import Design
from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from export.bundle.keys import PrivateKey
from export.checkpoint import save_checkpoint
from export.head_export import export_head
from tests.export.heads import metadata_of

DESIGN = Design()
DEMO = UNetConfig(
    in_channels=1,
    image_size=8,
    base_channels=DESIGN.head.base_channels,
    channel_multipliers=(1, 2),
    num_classes=DESIGN.num_classes,
)
SCHEDULE = NoiseSchedule.cosine(1000)
T_CUT = SCHEDULE.T // 5
"""The share of the chain that an agent takes unless it is told otherwise."""


def network(config: UNetConfig) -> UNet:
    """Weights that are random everywhere: an untouched network would end in zeros."""
    torch.manual_seed(0)
    made = UNet(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made.eval().requires_grad_(requires_grad=False)


def bundle(made: UNet, path: Path, *, client: str = "bench", key: PrivateKey | None = None) -> Path:
    """Export a network as the head of a client, for the device's share of the chain, signed by `key` or by nobody."""
    checkpoint = path.with_suffix(".safetensors")
    save_checkpoint(checkpoint, made, metadata_of(made, T_CUT, client, SCHEDULE))
    export_head(checkpoint, path, key=key)
    return path
