import pytest

from evaluation.digits import ClientData, by_client, load_digits
from evaluation.features import Classifier, train_classifier


@pytest.fixture(scope="session")
def clients() -> tuple[ClientData, ...]:
    return by_client(load_digits(), {"north": (0, 1, 2, 3), "east": (4, 5, 6), "south": (7, 8, 9)}, seed=3)


@pytest.fixture(scope="session")
def classifier(clients: tuple[ClientData, ...]) -> Classifier:
    return train_classifier(clients)
