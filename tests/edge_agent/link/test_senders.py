import pytest

from edge_agent.link import senders


@pytest.mark.parametrize(
    ("user", "type_name", "taken"),
    [
        ("denoiser", "latents.v1", True),
        ("ward__owner", "bundle.v1", True),
        ("ward__owner", "chunk.v1", True),
        ("ward__owner", "round.v1", False),
        ("ward__owner", "latents.v1", False),
        ("clinic__owner", "bundle.v1", False),
        ("clinic__owner", "round.v1", False),
        (None, "round.v1", False),
    ],
)
def test_a_letter_is_taken_from_whom_it_may_come(user: str | None, type_name: str, taken: bool) -> None:
    assert (senders.objection(user, type_name, "ward_one") is None) == taken
