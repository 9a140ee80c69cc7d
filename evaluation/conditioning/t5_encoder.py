"""A T5 encoder out of a directory on this machine: nothing is downloaded, unpickled or executed.

Raffel et al., *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, arXiv 1910.10683. The
vectors of a text's tokens are averaged, as in Ni et al., *Sentence-T5*, arXiv 2108.08877.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.conditioning.t5_directory import check_files
from evaluation.conditioning.text import check_texts
from evaluation.errors import TextError

MAX_TOKENS = 512
"""What T5 was trained on. A longer text is refused: a part of it would go unheard."""
_BATCH_TEXTS = 32


class T5TextEncoder:
    """The encoder half of a T5 with its tokenizer, on the CPU, in evaluation mode."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.size = int(model.config.d_model)
        self._model = model
        self._tokenizer = tokenizer

    @classmethod
    def from_directory(cls, path: Path) -> "T5TextEncoder":
        """Reads `config.json`, `model.safetensors` (or its shards) and the tokenizer's files, as transformers saves them.

        A whole T5 will do: its decoder is left unread.

        Raises:
            TextError: transformers is not installed, or the directory lacks a file, holds a damaged one or another model.
        """
        try:
            import transformers  # noqa: PLC0415 - an extra, and seconds to import
        except ModuleNotFoundError as error:
            raise TextError(
                "a T5 encoder needs transformers: pip install 'collafuse-edge[text]', or use the built-in encoder"
            ) from error
        check_files(path)
        with _quiet(transformers.utils.logging):
            model, tokenizer = _load(transformers, path)
        if len(tokenizer) > model.config.vocab_size:
            raise TextError(
                f"the tokenizer in {path} knows {len(tokenizer)} tokens, its model {model.config.vocab_size}: "
                "give a directory whose files belong together"
            )
        return cls(model.eval().requires_grad_(requires_grad=False), tokenizer)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The mean over each text's tokens, its end token among them, of the last hidden layer: (N, D) float32.

        Raises:
            TextError: a text that is empty, longer than `MAX_TOKENS`, or in signs that the tokenizer has no token for.
        """
        check_texts(texts)
        parts = [
            self._encoded(list(texts[first : first + _BATCH_TEXTS]))
            for first in range(0, len(texts), _BATCH_TEXTS)
        ]
        return torch.cat(parts)

    def _encoded(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        lengths = tokens["attention_mask"].sum(dim=1)
        if int(lengths.max()) > MAX_TOKENS:
            longest = texts[int(lengths.argmax())]
            raise TextError(
                f"the text {longest[:40]!r}… has {int(lengths.max())} tokens: say it in {MAX_TOKENS} or fewer"
            )
        self._check_known(texts, tokens["input_ids"])
        with torch.no_grad():
            hidden = self._model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).last_hidden_state
        mask = tokens["attention_mask"][:, :, None].to(hidden.dtype)
        pooled: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return pooled.float()

    def _check_known(self, texts: list[str], tokens: Tensor) -> None:
        # What is asked for in such a word would be missing in the answer, unseen.
        unknown = self._tokenizer.unk_token_id
        for text, row in zip(texts, tokens.tolist(), strict=True):
            if unknown in row:
                words = [word for word in text.split() if unknown in self._tokenizer(word)["input_ids"]]
                raise TextError(
                    f"the T5 has no token for {', '.join(words) or 'a part'} in {text[:40]!r}: say it in other words"
                )


def _load(transformers: Any, path: Path) -> tuple[Any, Any]:
    try:
        model, report = transformers.T5EncoderModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # transformers, safetensors and tokenizers raise what they like; for the reader it is one thing.
        reason = " ".join(str(error).split())[:200]
        raise TextError(f"the T5 in {path} cannot be read: {reason}; save or copy it again") from error
    # It would go on with random numbers in their place.
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise TextError(
            f"the weights in {path} lack {missing[0]} and {len(missing) - 1} more: copy the model again"
        )
    return model, tokenizer


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    # It draws progress bars, and reports what is told here in one line.
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
