"""Who is ended for standing still, and who is not; the real end of a real process is in test_trials."""

import threading
from dataclasses import dataclass, field

import pytest

from edge_agent.heads import watchdog
from tests.conftest import wait_until


@dataclass
class Agent:
    """Stands still unless told otherwise; counts how often it was looked at."""

    on_trial: bool = True
    moves_every: int | None = None
    looks: int = 0
    ended: list[int] = field(default_factory=list)

    @property
    def beats(self) -> int:
        self.looks += 1
        return 0 if self.moves_every is None else self.looks // self.moves_every


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LIMIT_SECONDS", 0.1)


def test_an_agent_that_stands_still_on_trial_is_ended_once() -> None:
    agent = Agent()

    with watchdog.watching(agent, agent.ended.append):
        wait_until(lambda: agent.ended == [70], "it is ended")

    assert agent.looks > 10, "not at the first look"


@pytest.mark.parametrize("agent", [Agent(on_trial=False), Agent(moves_every=5)], ids=["believed", "slow"])
def test_a_believed_head_and_a_slow_one_are_left_alone(agent: Agent) -> None:
    with watchdog.watching(agent, agent.ended.append):
        wait_until(lambda: agent.looks >= 40, "it was looked at often")

    assert agent.ended == []
    assert not [thread for thread in threading.enumerate() if thread.name == "head-watchdog"]
