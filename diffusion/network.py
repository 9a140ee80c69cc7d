"""The noise predictor, for the server's backbone and, narrower, for a client's head.

After Ho et al. (2020) and Nichol & Dhariwal (2021): residual blocks with GroupNorm and SiLU, the step, the label
and a vector condition injected as scale and shift, self-attention at the lowest resolution, and a last convolution
that starts at zero.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.errors import DiffusionError


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a network.

    in_channels: C; image_size: H = W in pixels, divisible by 2 for every level after the first;
    base_channels: width of the first level, a multiple of 8;  channel_multipliers: the width of every level
    in units of it;  blocks_per_level: residual blocks on the way down (one more on the way up);  attention:
    at the lowest level;  num_classes: K, or None for a network without labels;  condition_size: D, the length of a
    vector that says what is wanted (attributes, an encoded text), or None for a network without one.
    """

    in_channels: int = 1
    image_size: int = 8
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2)
    blocks_per_level: int = 1
    attention: bool = True
    num_classes: int | None = None
    condition_size: int | None = None

    def __post_init__(self) -> None:
        given = (size for size in (self.num_classes, self.condition_size) if size is not None)
        sizes = (self.in_channels, self.blocks_per_level, *self.channel_multipliers, *given)
        if not self.channel_multipliers or min(sizes) < 1:
            raise DiffusionError(f"not a network: {self}; every size must be 1 or more")
        if self.base_channels < 8 or self.base_channels % 8:
            raise DiffusionError(
                f"{self.base_channels} base channels do not divide into groups: choose a multiple of 8"
            )
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size < factor or self.image_size % factor:
            raise DiffusionError(
                f"images of {self.image_size} pixels cannot be halved {len(self.channel_multipliers) - 1} times: "
                f"choose a multiple of {factor}, or fewer levels"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON manifest.

        What was described before there were conditions is described by the same words still: a network without one
        does not mention `condition_size`.
        """
        values = {**asdict(self), "channel_multipliers": list(self.channel_multipliers)}
        if self.condition_size is None:
            del values["condition_size"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UNetConfig":
        """The inverse of `to_dict`; DiffusionError for keys that are unknown or missing."""
        names = {field.name for field in fields(cls)}
        odd = ", ".join(sorted((set(values) ^ names) - {"condition_size"}))
        if odd:
            raise DiffusionError(
                f"a network's description has unknown or missing keys ({odd}): was it made by another version?"
            )
        return cls(**{**values, "channel_multipliers": tuple(values["channel_multipliers"])})


class UNet(nn.Module):
    """ε_θ(x_t, t, label, condition).

    `null_condition` (D,) is learned and stands for "nothing is asked for", as the last label does among the labels.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.base_channels, 4 * config.base_channels
        levels = [width * multiplier for multiplier in config.channel_multipliers]
        self.embed_step = nn.Sequential(
            nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.embed_label = nn.Embedding(config.num_classes + 1, embedding) if config.num_classes else None
        self.first = nn.Conv2d(config.in_channels, width, 3, padding=1)

        self.down, skips = _way_down(config, levels, embedding)
        self.middle = Block(levels[-1], levels[-1], embedding, config.attention)
        self.up = _way_up(config, levels, skips, embedding)
        self.last_norm = _group_norm(levels[0])
        self.last = _zeroed(nn.Conv2d(levels[0], config.in_channels, 3, padding=1))

        # Last, so that a network without a condition starts from the same weights as ever.
        size = config.condition_size
        self.embed_condition = _embed_condition(size, embedding) if size else None
        self.null_condition = nn.Parameter(torch.randn(size)) if size else None

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Predict the noise in x_t.

        x: (B, C, H, W) float32;  t: (B,) int64 in [1, T];  label: (B,) int64 in [0, K], K meaning "no
        label". None is the same as K for every sample; a network without labels takes nothing else.
        condition: (B, D) float32, a row equal to `null_condition` meaning "no condition". None is the same as that
        for every sample; a network without a condition takes nothing else.

        Returns ε̂: (B, C, H, W) float32.  Raises DiffusionError for what this network cannot be asked.
        """
        embedding = self.embed_step(sinusoids(t, self.config.base_channels).to(x.dtype))
        embedding = embedding + self._label_embedding(label, t)
        if self.config.condition_size is not None or condition is not None:
            embedding = embedding + self._condition_embedding(condition, x)
        x = self.first(x)
        skips = [x]
        for layer in self.down:
            x = layer(x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        for layer in self.up:
            if isinstance(layer, Block):
                x = torch.cat((x, skips.pop()), dim=1)
            x = layer(x, embedding)
        predicted: Tensor = self.last(functional.silu(self.last_norm(x)))
        return predicted

    def _label_embedding(self, label: Tensor | None, t: Tensor) -> Tensor | float:
        if self.embed_label is None:
            if label is not None:
                raise DiffusionError("this network was made without labels: call it without any")
            return 0.0
        if label is None:
            label = torch.full_like(t, self.embed_label.num_embeddings - 1)
        embedding: Tensor = self.embed_label(label)
        return embedding

    def _condition_embedding(self, condition: Tensor | None, x: Tensor) -> Tensor:
        if self.embed_condition is None or self.null_condition is None:
            raise DiffusionError("this network was made without a condition: call it without one")
        if condition is None:
            condition = self.null_condition.expand(x.shape[0], -1)
        if condition.shape != (x.shape[0], self.config.condition_size):
            raise DiffusionError(
                f"conditions of shape {tuple(condition.shape)} for {x.shape[0]} samples: this network takes "
                f"{self.config.condition_size} numbers for each"
            )
        embedding: Tensor = self.embed_condition(condition.to(x.dtype))
        return embedding


class Block(nn.Module):
    """A residual block, and self-attention after it where wanted.  (B, in, H, W), (B, E) → (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, attends: bool) -> None:
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding, 2 * out_channels)
        self.norm2 = _group_norm(out_channels)
        self.conv2 = _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = Attention(out_channels) if attends else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Residual, scaled and shifted by the embedding between its convolutions."""
        scale, shift = self.scale_shift(functional.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h) * (1 + scale) + shift))
        result: Tensor = self.attention(self.shortcut(x) + h)
        return result


class Attention(nn.Module):
    """Residual self-attention over all pixels, in heads of up to 32 channels.  (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32) if channels % 32 == 0 else 1
        self.norm = _group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.project = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every pixel to every pixel."""
        _, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(-1, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)
        h = functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        result: Tensor = x + self.project(h.reshape(-1, channels, height, width))
        return result


class Downsample(nn.Module):
    """Halve the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2); the embedding is not used."""
        del embedding
        result: Tensor = self.conv(x)
        return result


class Upsample(nn.Module):
    """Double the resolution, at the width of the level it leads to: at 8×8 this convolution is the dearest."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, H, W) → (B, out, 2H, 2W); the embedding is not used."""
        del embedding
        result: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


def sinusoids(t: Tensor, dimensions: int) -> Tensor:
    """Sines and cosines of t at wavelengths from 2π to 2π·10⁴ (Vaswani et al. 2017).  (B,) int64 → (B, dimensions) float32."""
    half = dimensions // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
    angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(10_000.0) * exponents)[None, :]
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def parameter_count(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def _way_down(config: UNetConfig, levels: list[int], embedding: int) -> tuple[nn.ModuleList, list[int]]:
    """The layers to the lowest level, and the widths they leave for the way up."""
    layers = nn.ModuleList()
    channels = config.base_channels
    widths = [channels]
    for level, out in enumerate(levels):
        if level:
            layers.append(Downsample(channels))
            widths.append(channels)
        attends = config.attention and level == len(levels) - 1
        for _ in range(config.blocks_per_level):
            layers.append(Block(channels, out, embedding, attends))
            channels = out
            widths.append(channels)
    return layers, widths


def _way_up(config: UNetConfig, levels: list[int], skips: list[int], embedding: int) -> nn.ModuleList:
    """The layers back from the lowest level; every block takes one of the widths left on the way down."""
    layers = nn.ModuleList()
    channels = levels[-1]
    for level, out in reversed(list(enumerate(levels))):
        attends = config.attention and level == len(levels) - 1
        for _ in range(config.blocks_per_level + 1):
            layers.append(Block(channels + skips.pop(), out, embedding, attends))
            channels = out
        if level:
            channels = levels[level - 1]
            layers.append(Upsample(out, channels))
    return layers


def _embed_condition(size: int, embedding: int) -> nn.Sequential:
    """(B, D) → (B, E), of variance about 1 for inputs of variance 1.

    As loud as a label's embedding from the start: at torch's own scale it is a sixth of that, and is hardly heard for the first
    thousand updates.
    """
    into, out = nn.Linear(size, embedding), nn.Linear(embedding, embedding)
    nn.init.normal_(into.weight, std=size**-0.5)
    # E[silu(z)²] = 0.356 for z ~ N(0, 1).
    nn.init.normal_(out.weight, std=(0.356 * embedding) ** -0.5)
    return nn.Sequential(into, nn.SiLU(), out)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, max(1, channels // 4)), channels)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
