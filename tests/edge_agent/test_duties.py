from edge_agent.agent import Agent


class Obstructed:
    """A duty with a file in its way."""

    def __init__(self) -> None:
        self.turns = 0

    def turn(self) -> None:
        self.turns += 1
        raise NotADirectoryError(20, "Not a directory", "results")


class Plain:
    def __init__(self) -> None:
        self.turns = 0

    def turn(self) -> None:
        self.turns += 1


def test_a_file_in_the_way_of_one_duty_keeps_no_other_from_its_turn() -> None:
    agent = Agent.__new__(Agent)  # of all its parts this needs none
    agent._obstacles = {}
    obstructed, plain = Obstructed(), Plain()

    for duty in (obstructed, plain, obstructed, plain):
        agent._see_to(duty)

    assert (obstructed.turns, plain.turns) == (2, 2)
    assert list(agent._obstacles) == ["Obstructed"]
