from pathlib import Path

import pytest

from edge_agent.heads.head_slot import HeadSlot


@pytest.fixture
def slot(head_bundle: Path) -> HeadSlot:
    """With a small head loaded."""
    slot = HeadSlot(head_bundle, "cpu", 1)
    slot.refresh()
    return slot
