from pathlib import Path

import pytest

from diffusion.schedule import NoiseSchedule
from evaluation.data.digits import load_digits
from evaluation.data.images import ClientData
from evaluation.data.partition import by_client
from evaluation.metrics.features import Classifier, train_classifier
from evaluation.running.federation import Federation
from evaluation.running.workbench import Setting, Workbench
from tests.evaluation.tiny import PLAN, TINY


@pytest.fixture(scope="session")
def clients() -> tuple[ClientData, ...]:
    return by_client(load_digits(), {"north": (0, 1, 2, 3), "east": (4, 5, 6), "south": (7, 8, 9)}, seed=3)


@pytest.fixture(scope="session")
def classifier(clients: tuple[ClientData, ...]) -> Classifier:
    return train_classifier(clients)


@pytest.fixture(scope="session")
def federation() -> Federation:
    return PLAN.open(NoiseSchedule.named(TINY.schedule, TINY.timesteps))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """One for all tests of a process, so that no network is trained twice."""
    return Workbench(Setting(TINY, PLAN, tmp_path_factory.mktemp("evaluation")))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(TINY, PLAN, tmp_path / "out")
