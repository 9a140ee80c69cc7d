"""What the device's metrics say of its heads."""

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from edge_agent.heads import store
from edge_agent.observation import Observer
from edge_agent.settings import EdgeSettings
from monitoring.metrics import EdgeMetrics
from tests.edge_agent.heads.devices import HeadDevice


def test_heads_on_their_way_and_in_use_are_measured(
    head_device: HeadDevice,
    publish: Callable[..., Path],
    settings: Callable[..., EdgeSettings],
) -> None:
    registry = CollectorRegistry()
    observer = Observer(head_device.spool, EdgeMetrics(registry), settings())

    def shown() -> tuple[list[store.State], float | None]:
        observer.look_at_heads(head_device.spool, head_device.slot)
        states = [
            state
            for state in store.STATES
            if registry.get_sample_value("collafuse_head_update", {"state": state}) == 1
        ]
        return states, registry.get_sample_value("collafuse_head_number")

    assert shown() == ([], 0)
    head_device.install(publish(7))
    assert shown() == (["live"], 7)
    head_device.deliver(publish(3))
    assert shown() == (["refused"], 7)
