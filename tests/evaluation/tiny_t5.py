"""A whole T5 with random weights, decoder and tokenizer and all, saved as transformers saves one."""

import builtins
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.conditioning.asking import vocabulary

_SHAPE = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}


def save_tiny_t5(
    path: Path,
    words: Sequence[str] = ("", *vocabulary().words),
    signs: Sequence[str] = (",", *string.ascii_lowercase),
    seed: int = 0,
) -> Path:
    """One whose tokenizer knows these words, and with "" among them any other that the signs spell; another for each seed."""
    transformers = pytest.importorskip("transformers")
    tokens = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words), *signs]
    vocabulary_of_pieces = [(token, -float(rank)) for rank, token in enumerate(tokens)]
    transformers.T5Tokenizer(vocab=vocabulary_of_pieces, extra_ids=0).save_pretrained(path)
    config = transformers.T5Config(vocab_size=len(tokens) + 4, **_SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    return path


def hide_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it was not installed."""
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
