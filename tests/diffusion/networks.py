"""A small network, and one that does not answer zero."""

import torch

from diffusion.network import UNet, UNetConfig

SMALL = UNetConfig(1, 8, 16, (1, 2), 1, attention=True, num_classes=10)


def woken(config: UNetConfig, seed: int = 0) -> UNet:
    """A network whose zeroed layers have been given weights, as training would."""
    torch.manual_seed(seed)
    model = UNet(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model
