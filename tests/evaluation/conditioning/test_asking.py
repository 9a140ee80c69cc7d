"""What is asked agrees with how the phantoms are labelled and described."""

import numpy as np
import pytest

from evaluation.conditioning.asking import KINDS, Asked, all_captions, every_kind, vocabulary
from evaluation.data.phantoms import captions, load_phantoms


def test_labels_are_those_of_the_phantoms_themselves() -> None:
    phantoms = load_phantoms(200, size=16).images
    asked = Asked(phantoms.attributes)
    np.testing.assert_array_equal(asked.labels, phantoms.labels)
    np.testing.assert_array_equal(asked.kinds == 0, phantoms.labels == 0)
    assert asked.vectors.min() == -1
    assert asked.vectors.max() <= 1


def test_one_of_each_kind_comes_in_the_order_of_the_kinds() -> None:
    asked = every_kind(contrast=0.3)
    np.testing.assert_array_equal(asked.kinds, np.arange(len(KINDS)))
    assert asked.captions()[0] == "no lesion"
    for kind, text in zip(KINDS[1:], asked.captions()[1:], strict=True):
        assert all(word in text for word in kind.split(", "))


def test_the_vocabulary_knows_every_caption_a_phantom_can_have() -> None:
    found = captions(load_phantoms(400, size=16).images)
    assert set(found) <= set(all_captions())
    assert vocabulary().numbers(found).shape[0] == 400


def test_rows_are_taken_in_the_order_given() -> None:
    taken = every_kind(0.5).take(np.array([6, 0, 6]))
    np.testing.assert_array_equal(taken.kinds, [6, 0, 6])
    assert len(taken) == 3


@pytest.mark.parametrize("prompt", ["a small lesion on the left", "On the right there is a large lesion."])
def test_what_a_person_would_write_is_understood(prompt: str) -> None:
    assert vocabulary().numbers([prompt]).all()
