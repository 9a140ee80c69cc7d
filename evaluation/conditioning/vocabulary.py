"""The words a small encoder knows, and texts as rows of their numbers."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.conditioning.text import check_texts
from evaluation.errors import TextError

PADDING = 0
"""The number that is no word; words count from 1."""
_SHOWN_WORDS = 40


@dataclass(frozen=True)
class Vocabulary:
    """The words in the order of their numbers, the first being 1. Case and punctuation do not count."""

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        odd = [word for word in self.words if _words_of(word) != [word]]
        if odd or len(set(self.words)) != len(self.words) or not self.words:
            raise TextError(
                f"not a vocabulary: {self.words[:5]} … must be different lower-case words, one or more"
            )

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Vocabulary":
        """Every word of these texts, in alphabetical order."""
        return cls(tuple(sorted({word for text in texts for word in _words_of(text)})))

    def numbers(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(N, L) int64, L words at most, rows filled up with `PADDING`.

        A word it does not know is an error and not skipped: what was asked for would be missing in the answer, unseen.

        Raises:
            TextError: no text, one without words, or one with words that are not known.
        """
        check_texts(texts)
        rows = [self._row(text) for text in texts]
        filled = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int64)
        for row, numbers in zip(filled, rows, strict=True):
            row[: len(numbers)] = numbers
        return filled

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are none of these, each once, in their order."""
        return tuple(dict.fromkeys(word for word in _words_of(text) if word not in self._number_of))

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=1)}

    def _row(self, text: str) -> list[int]:
        words = _words_of(text)
        if not words:
            raise TextError(f"there is no word in {text!r}: say what is wanted in words")
        unknown = self.unknown(text)
        if unknown:
            raise TextError(f"unknown in {text!r}: {', '.join(unknown)}; {self._advice(unknown)}")
        return [self._number_of[word] for word in words]

    def _advice(self, unknown: Sequence[str]) -> str:
        near = [match for word in unknown for match in difflib.get_close_matches(word, self.words, n=1)]
        if near:
            return f"did you mean {', '.join(near)}?"
        more = " …" if len(self.words) > _SHOWN_WORDS else ""
        return f"use these words: {', '.join(self.words[:_SHOWN_WORDS])}{more}"


def _words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
