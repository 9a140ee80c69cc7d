"""Texts read by an encoder that learns nothing here, and brought to a network's size by a layer that does."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from evaluation.conditioning.t5_directory import T5Directory
from evaluation.conditioning.t5_encoder import T5TextEncoder
from evaluation.conditioning.text import TextEncoder


class RememberedT5:
    """The T5 in a directory, which reads each text once: it is opened for those that are new, and let go again.

    A text is read by itself. In a batch with others its vector would differ from run to run in the last digits, and with it
    all that is trained on it.
    """

    def __init__(self, directory: T5Directory) -> None:
        self.directory = directory
        self._vectors: dict[str, Tensor] = {}

    @property
    def name(self) -> str:
        """What it is, in words."""
        return self.directory.name

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 on the CPU, without gradients.

        Raises TextError for what `T5TextEncoder` cannot open or cannot read.
        """
        unread = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if unread:
            # Whatever is drawn while a model is opened must not change what the caller draws.
            with torch.random.fork_rng(devices=[]):
                opened = T5TextEncoder.from_directory(self.directory.path)
            self._vectors |= {text: opened.encode([text])[0] for text in unread}
        return torch.stack([self._vectors[text] for text in texts])


@cache
def remembered(directory: T5Directory) -> RememberedT5:
    """The one for all networks of this process, so that none of them reads what another has read."""
    return RememberedT5(directory)


class ProjectedTexts(nn.Module):
    """(N, D) float32 of an encoder → (N, size) float32 with mean 0 and variance 1 over each vector's entries, before scaling.

    The mean of the texts that it is made with is taken off first. Texts about one thing lie close together in what an encoder
    makes of them, and what tells them apart is the rest: Mu & Viswanath, *All-but-the-Top*, arXiv 1702.01417.
    """

    mean: Tensor

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], size: int) -> None:
        super().__init__()
        self.encoder = encoder
        vectors = encoder.encode(texts)
        self.register_buffer("mean", vectors.mean(dim=0))
        width = vectors.shape[1]
        # Of the size of a network's null condition in the end, whatever the encoder's vectors are like.
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size), nn.LayerNorm(size))

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) float32, as the encoder makes them → (N, size) float32."""
        projected: Tensor = self.project(vectors - self.mean)
        return projected

    def conditions(self, texts: Sequence[str]) -> Tensor:
        """(N, size) float32; gradients reach the projection alone. Raises TextError for a text the encoder cannot read."""
        projected: Tensor = self(self.encoder.encode(texts))
        return projected
