"""What an experiment needs of an encoder of texts, whichever it is."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from evaluation.errors import TextError


class TextEncoder(Protocol):
    """Turns texts into vectors that a network can be conditioned on, one for each: its tokens pooled."""

    @property
    def name(self) -> str:
        """What it is, in words, for whoever reads a figure that rests on it."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D) float32 on the CPU, without gradients. Raises TextError for a text that it cannot read."""


def check_texts(texts: Sequence[str]) -> None:
    """Raise TextError when one of them says nothing, or when there is none."""
    if not texts:
        raise TextError("no text was given: say what is wanted")
    for place, text in enumerate(texts):
        if not text.strip():
            raise TextError(f"text {place + 1} of {len(texts)} is empty: say what is wanted")
