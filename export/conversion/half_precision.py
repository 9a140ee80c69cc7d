"""A head in half precision, for CUDA: weights and activations float16, inputs and outputs float32."""

import copy

from torch import Tensor, nn

from diffusion.network import UNet


class HalfPrecision(nn.Module):
    """The same network in float16 behind the same interface.

    Only the angles of its embedding of t stay in float32 (the network makes them so): at t = 1000 half precision would
    know them to half a radian. The network itself is copied, not changed.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.config = network.config
        self.network = copy.deepcopy(network).half()

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """As `UNet.forward`: float32 in, float32 out."""
        eps: Tensor = self.network(x.half(), t, label).float()
        return eps
