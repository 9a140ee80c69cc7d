"""A small encoder of texts that is trained together with the network it conditions; no other data, no download.

Words become vectors, neighbouring vectors are read together by one convolution, and its outputs are averaged. So it tells
words apart and also who stands beside whom: "left, not right" from "right, not left". It is meant for captions of a few dozen
words of vocabulary; whoever writes freely needs an encoder that has read more (`T5TextEncoder`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from evaluation.conditioning.vocabulary import PADDING, Vocabulary
from evaluation.errors import TextError
from export.files import replace_file

_FORMAT: Final = "collafuse-words-v1"
_DESCRIPTION, _WEIGHTS = "vocabulary.json", "encoder.safetensors"
_NEIGHBOURS = 3


class BuiltInTextEncoder(nn.Module):
    """(N, L) numbers of words → (N, size) float32 with mean 0 and variance 1 over each vector's entries, before scaling."""

    def __init__(self, vocabulary: Vocabulary, size: int = 32) -> None:
        super().__init__()
        if size < 2:
            raise TextError(f"vectors of {size} numbers tell nothing apart: choose 2 or more")
        self.vocabulary = vocabulary
        self.size = size
        self.name = f"built-in encoder of {len(vocabulary.words)} words, {size} numbers a text"
        self.embed = nn.Embedding(len(vocabulary.words) + 1, size, padding_idx=PADDING)
        self.read = nn.Conv1d(size, size, _NEIGHBOURS, padding=_NEIGHBOURS // 2)
        self.pool = nn.Linear(size, size)
        # Of the size of a network's null condition, whatever the words' vectors grow to.
        self.norm = nn.LayerNorm(size)

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """Texts as `forward` takes them, (N, L) int64. Raises TextError for unknown words."""
        return torch.from_numpy(self.vocabulary.numbers(texts))

    def forward(self, numbers: Tensor) -> Tensor:
        """(N, L) int64, padded with 0 at the end → (N, size) float32; padding changes nothing."""
        words = self.embed(numbers)
        is_word = (numbers != PADDING)[:, :, None].to(words.dtype)
        read = functional.silu(self.read(words.transpose(1, 2)).transpose(1, 2)) + words
        mean = (read * is_word).sum(dim=1) / is_word.sum(dim=1)
        pooled: Tensor = self.norm(self.pool(mean))
        return pooled

    def conditions(self, texts: Sequence[str]) -> Tensor:
        """(N, size) float32; gradients reach every weight. Raises TextError as `encode` does."""
        encoded: Tensor = self(self.numbers(texts))
        return encoded

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, size) float32. Raises TextError for empty texts and unknown words."""
        return self.conditions(texts).cpu()

    def save(self, directory: Path) -> None:
        """Write the vocabulary as JSON and the weights as safetensors. Raises TextError when that cannot be written."""
        description = {"format": _FORMAT, "size": self.size, "words": list(self.vocabulary.words)}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            replace_file(directory / _WEIGHTS, save(weights))
            replace_file(directory / _DESCRIPTION, json.dumps(description, indent=1).encode())
        except OSError as error:
            raise TextError(
                f"cannot write the encoder to {directory}: {error.strerror}; choose a writable place"
            ) from error

    @classmethod
    def from_directory(cls, directory: Path) -> "BuiltInTextEncoder":
        """Read what `save` wrote, in evaluation mode.

        Raises:
            TextError: missing, damaged or of another version, or weights that do not fit the vocabulary.
        """
        try:
            description = json.loads((directory / _DESCRIPTION).read_bytes())
            weights = load((directory / _WEIGHTS).read_bytes())
            encoder = cls(*_described(description))
            encoder.load_state_dict(weights)
        except OSError as error:
            raise TextError(
                f"cannot read the encoder in {directory}: {error.strerror}; give the directory it was saved to"
            ) from error
        except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError, TextError) as error:
            reason = " ".join(str(error).split())[:200]
            raise TextError(f"{directory} holds no usable encoder: {reason}; train it again") from error
        return encoder.eval()


def _described(description: Any) -> tuple[Vocabulary, int]:
    if description["format"] != _FORMAT:
        raise TextError(f"it is of format {description['format']!r}, not {_FORMAT!r}")
    return Vocabulary(tuple(str(word) for word in description["words"])), int(description["size"])
