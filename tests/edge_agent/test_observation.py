"""What the device's metrics say of its ledger, its heads and its letters."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from edge_agent.observation import Observer
from edge_agent.release import contribution, ledger
from edge_agent.release.images import open_images
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import EdgeMetrics

MakeSettings = Callable[..., EdgeSettings]
MakeObserver = Callable[[EdgeSettings], Observer]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def observe(spool: Spool, registry: CollectorRegistry) -> MakeObserver:
    metrics = EdgeMetrics(registry)
    return lambda settings: Observer(spool, metrics, settings)


@pytest.fixture
def data(tmp_path: Path, pictures: np.ndarray) -> Path:
    np.savez(tmp_path / "data.npz", images=pictures)
    return tmp_path / "data.npz"


def contribute(spool: Spool, state: StateDirectory, data: Path, settings: EdgeSettings) -> None:
    contribution.contribute(spool, open_images(data), state.secret(), settings, lambda _: None)


def test_the_account_of_the_dearest_image_and_refused_releases_are_measured(
    spool: Spool,
    state: StateDirectory,
    settings: MakeSettings,
    observe: MakeObserver,
    registry: CollectorRegistry,
    data: Path,
) -> None:
    once = settings(cut_ratio=0.9, clip_norm=1.0)
    observer = observe(once)
    assert registry.get_sample_value("collafuse_ledger_epsilon_max") == 0

    contribute(spool, state, data, once)
    observer.look(spool)
    dearest = registry.get_sample_value("collafuse_ledger_epsilon_max")
    assert dearest == ledger.summary(spool, once)["epsilon_max"]
    assert dearest is not None
    assert dearest > 0

    twice = settings(cut_ratio=0.9, clip_norm=1.0, releases=2, epsilon_budget=dearest * 1.01)
    contribute(spool, state, data, twice)
    observer.look(spool)
    assert registry.get_sample_value("collafuse_releases_refused_total") == 10
    assert registry.get_sample_value("collafuse_ledger_epsilon_max") == dearest


def test_of_an_image_without_a_bound_nothing_is_promised(
    spool: Spool,
    state: StateDirectory,
    settings: MakeSettings,
    observe: MakeObserver,
    registry: CollectorRegistry,
    data: Path,
) -> None:
    contribute(spool, state, data, settings())
    with spool.transaction() as transaction:
        transaction.execute("UPDATE ledger SET mu = NULL")

    observe(settings())

    assert registry.get_sample_value("collafuse_ledger_epsilon_max") == math.inf


def test_letters_of_strangers_are_measured(
    spool: Spool, settings: MakeSettings, observe: MakeObserver, registry: CollectorRegistry
) -> None:
    observer = observe(settings())
    with spool.transaction() as transaction:
        counters.add(transaction, "strangers")

    observer.look(spool)

    assert registry.get_sample_value("collafuse_strangers_total") == 1
