"""Small backbones and sample batches for the worker's tests."""

import numpy as np
import torch

from broker.contract.samples import SamplesV1
from diffusion.network import UNet, UNetConfig
from diffusion.schedule import NoiseSchedule
from server_worker import versions
from server_worker.samples.contract import Contract
from server_worker.storage import Storage
from server_worker.versions import Backbone, Manifest

T = 100
SHAPE = (1, 8, 8)
CLASSES = 3
T_CUT_MIN = 20
CPU = torch.device("cpu")
# At t = T a step divides the network's float32 rounding, which depends on the batch's size, by √ᾱ_T. Equality to 1e-5 between two
# batches is therefore tested on a chain whose √ᾱ_T is not tiny, with a network whose outputs, and so their rounding, are small.
SCHEDULE = NoiseSchedule.linear(T)
CONTRACT = Contract(SCHEDULE, SHAPE, CLASSES, cut_min=0.2, cut_max=0.8)
UNET = UNetConfig(
    in_channels=1,
    image_size=8,
    base_channels=8,
    channel_multipliers=(1, 2),
    blocks_per_level=1,
    attention=True,
    num_classes=CLASSES,
)


def publish_backbone(storage: Storage, seed: int = 0) -> Backbone:
    """A version with random weights, published and loaded again; a fresh network predicts zero, which tests nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(UNET)
    weights = {
        name: value if value.any() else torch.randn(value.shape, generator=generator) * 0.005
        for name, value in network.state_dict().items()
    }
    manifest = Manifest(
        number=0,
        schedule_name=SCHEDULE.name,
        schedule_T=T,
        schedule_id=SCHEDULE.schedule_id,
        shape=SHAPE,
        num_classes=CLASSES,
        t_cut_min=T_CUT_MIN,
        steps=1,
        samples_seen=1,
        weights_digest="",
        unet=UNET.to_dict(),
    )
    published = versions.publish(storage, weights, manifest)
    return versions.load(storage, published.number, CPU)


def sample_batch(
    seed: int = 0, count: int = 4, t_cut: int = 40, dtype: str = "float16", release: int = 0
) -> SamplesV1:
    """`count` labelled releases that differ by seed."""
    rng = np.random.default_rng(seed)
    assert dtype in ("float16", "float32", "int8")
    return SamplesV1.pack(
        rng.standard_normal((count, *SHAPE)).astype(np.float32),
        schedule_id=SCHEDULE.schedule_id,
        t_cut=t_cut,
        release=release,
        dtype=dtype,  # type: ignore[arg-type]  # asserted above
        labels=rng.integers(0, CLASSES, count),
    )
