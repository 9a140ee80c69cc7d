"""What is shown of GPUs; no machine of the tests has one, so the driver's answers are the test's."""

from prometheus_client import CollectorRegistry

from monitoring.gpus import GpuCollector, Unknown, nvidia_gpus, watch_gpus


class Card:
    """A GPU that tells what the test says."""

    def __init__(self, name: str, *, tells_utilisation: bool = True) -> None:
        self.name = name
        self._tells_utilisation = tells_utilisation

    def memory_bytes(self) -> tuple[int, int]:
        return 3 * 2**30, 8 * 2**30

    def utilisation(self) -> float:
        if not self._tells_utilisation:
            raise Unknown
        return 0.25


def test_each_gpu_tells_its_memory_and_what_it_can_of_its_utilisation() -> None:
    registry = CollectorRegistry()
    registry.register(GpuCollector([Card("0"), Card("1", tells_utilisation=False)]))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("collafuse_gpu_memory_bytes", gpu="0", state="used") == 3 * 2**30
    assert value("collafuse_gpu_memory_bytes", gpu="1", state="total") == 8 * 2**30
    assert value("collafuse_gpu_utilisation_ratio", gpu="0") == 0.25
    assert value("collafuse_gpu_utilisation_ratio", gpu="1") is None


def test_a_machine_without_gpus_has_no_such_series() -> None:
    registry = CollectorRegistry()
    watch_gpus(registry)

    names = {family.name for family in registry.collect()}
    assert ("collafuse_gpu_memory_bytes" in names) == bool(nvidia_gpus())
