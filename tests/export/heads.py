"""Small heads for tests: real networks, with weights that are random everywhere so that every layer matters."""

import functools
import tempfile
from pathlib import Path

import torch

from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from export.checkpoint import HeadMetadata, save_checkpoint
from export.head_export import export_head

T_CUT = 60
SCHEDULE = NoiseSchedule.cosine(200)


def random_network(
    num_classes: int | None = 3, seed: int = 0, image_size: int = 8, in_channels: int = 1
) -> UNet:
    torch.manual_seed(seed)
    network = UNet(
        UNetConfig(
            in_channels=in_channels,
            image_size=image_size,
            base_channels=8,
            channel_multipliers=(1, 2),
            num_classes=num_classes,
        )
    )
    # A fresh network ends in a convolution of zeros, and any two such networks agree.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval().requires_grad_(requires_grad=False)


def metadata_of(
    network: UNet, t_cut: int = T_CUT, client: str = "ward", schedule: NoiseSchedule = SCHEDULE
) -> HeadMetadata:
    return HeadMetadata(
        unet=network.config.to_dict(),
        schedule_name=schedule.name,
        schedule_T=schedule.T,
        schedule_id=schedule.schedule_id,
        t_cut=t_cut,
        client=client,
        labels=tuple(f"class {number}" for number in range(network.config.num_classes or 0)),
        steps=5,
        batch_size=4,
        images=12,
        learning_rate=1e-3,
        seed=0,
        seconds=0.5,
        loss=0.9,
        loss_curve=((1, 1.0), (5, 0.9)),
    )


def write_checkpoint(path: Path, network: UNet, client: str = "ward", t_cut: int = T_CUT) -> Path:
    save_checkpoint(path, network, metadata_of(network, t_cut, client))
    return path


@functools.cache
def exported(seed: int = 0, t_cut: int = T_CUT) -> bytes:
    """The file of a small head's bundle; each is exported once in a run, for that takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "head.bundle")
        checkpoint = write_checkpoint(
            Path(folder, "head.safetensors"), random_network(seed=seed), t_cut=t_cut
        )
        export_head(checkpoint, out)
        return out.read_bytes()
