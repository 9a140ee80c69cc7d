"""What can be asked of a phantom, and the three ways to ask it: by its label, by its attributes, in words."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from evaluation.conditioning.vocabulary import Vocabulary
from evaluation.data.phantoms import ATTRIBUTE_NAMES, SIZE_BOUNDS, WORDINGS, caption

NOTHING = "no lesion"
SIZES = ("small", "medium", "large")
SIDES = ("left", "right")
KINDS = (NOTHING, *(f"{size}, {side}" for size, side in product(SIZES, SIDES)))
"""What a picture can show, as a judge names it: kind 0 has no lesion, then sizes rise and left comes before right."""
_TYPICAL_SIZES = (1 / 6, 1 / 2, 5 / 6)


class Way(StrEnum):
    """How it is asked. A label says whether there is a lesion and on which side; only the others can say how large."""

    LABEL = "label"
    ATTRIBUTES = "attributes"
    TEXT = "text"


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of N images.  attributes: (N, 4) float32, in the order of `ATTRIBUTE_NAMES`."""

    attributes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.attributes)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """(N,) int32: 0 no lesion, 1 on the left, 2 on the right, as the phantoms are labelled."""
        lesion, side_right = self.attributes[:, :2].T
        labels: NDArray[np.int32] = ((lesion > 0.5) * (1 + (side_right > 0.5))).astype(np.int32)
        return labels

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """(N,) int32: 0 small, 1 medium, 2 large; of no meaning where there is no lesion."""
        return np.searchsorted(SIZE_BOUNDS, self.attributes[:, 2], side="right").astype(np.int32)

    @cached_property
    def kinds(self) -> NDArray[np.int32]:
        """(N,) int32: indices of `KINDS`."""
        kinds: NDArray[np.int32] = np.where(self.labels > 0, 2 * self.sizes + self.labels, 0).astype(np.int32)
        return kinds

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, 4) float32 in [-1, 1]: the attributes as a network is told them."""
        return self.attributes * np.float32(2) - np.float32(1)

    def captions(self, wording: int = 0) -> tuple[str, ...]:
        """What is asked, in words."""
        return tuple(caption(row, wording=wording) for row in self.attributes)

    def take(self, rows: NDArray[np.intp]) -> "Asked":
        """What is asked at these rows, in that order. rows: (n,) int."""
        return Asked(self.attributes[rows])


def every_kind(contrast: float) -> Asked:
    """One of each of `KINDS`, in their order.  contrast: of the scan, in [0, 1]."""
    rows = [(0.0, 0.0, 0.0, contrast)]
    rows += [(1.0, float(side), size, contrast) for size, side in product(_TYPICAL_SIZES, range(len(SIDES)))]
    assert len(rows[0]) == len(ATTRIBUTE_NAMES)
    return Asked(np.asarray(rows, dtype=np.float32))


def all_captions() -> tuple[str, ...]:
    """Every caption that any phantom can have, each once."""
    kinds = every_kind(0.5)
    return tuple(dict.fromkeys(text for wording in range(WORDINGS) for text in kinds.captions(wording)))


def vocabulary() -> Vocabulary:
    """The words of all captions."""
    return Vocabulary.of(all_captions())
