from typing import Any

import pytest

from evaluation.errors import DesignError
from evaluation.running.design import Design


def test_quick_is_smaller_in_everything_and_repeats_enough_to_claim_something() -> None:
    quick, whole = Design.quick(), Design()
    assert len(quick.seeds) >= 3
    assert quick.updates < whole.updates
    assert quick.main_cut in quick.cuts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": (0, 1)}, "three or more"),
        ({"cuts": (0.0, 0.4)}, "from 0 to 1"),
        ({"cuts": (0.0, 0.6, 0.4, 1.0)}, "from 0 to 1"),
        ({"main_cut": 0.33}, "none of the inner cuts"),
        ({"updates": 0}, "1 or more"),
        ({"images": 4}, "16 or more"),
    ],
)
def test_a_design_from_which_nothing_follows_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DesignError, match=said):
        Design(**change)


def test_heads_keep_their_share_of_the_updates() -> None:
    changed = Design(updates=600, head_updates=300).changed(seeds=4, updates=100)
    assert (changed.seeds, changed.updates, changed.head_updates) == ((0, 1, 2, 3), 100, 50)
