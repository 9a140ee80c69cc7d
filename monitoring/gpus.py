"""Memory and utilisation of the machine's NVIDIA GPUs, read from the driver at every scrape.

The package nvidia-ml-py (module pynvml) is optional: without it, without a driver or without a GPU there are no such series.
"""

import contextlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)


class Gpu(Protocol):
    """One GPU; what it cannot tell it raises `Unknown` for."""

    name: str
    """Its index on the machine."""

    def memory_bytes(self) -> tuple[int, int]:
        """Used and total, in bytes."""

    def utilisation(self) -> float:
        """The share of the last moments in which it computed, 0 to 1."""


class Unknown(Exception):
    """The driver cannot tell this at the moment, or of such a GPU."""


class GpuCollector(Collector):
    """Turns what the driver tells into metrics."""

    def __init__(self, gpus: Sequence[Gpu]) -> None:
        self._gpus = tuple(gpus)

    def describe(self) -> Iterable[Metric]:
        """The metrics without samples."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """Asks the driver of every GPU."""
        memory, utilisation = _families()
        for gpu in self._gpus:
            with contextlib.suppress(Unknown):
                used_bytes, total_bytes = gpu.memory_bytes()
                memory.add_metric([gpu.name, "used"], used_bytes)
                memory.add_metric([gpu.name, "total"], total_bytes)
            with contextlib.suppress(Unknown):
                utilisation.add_metric([gpu.name], gpu.utilisation())
        return [memory, utilisation]


def watch_gpus(registry: CollectorRegistry) -> None:
    """Show the machine's GPUs in this registry, if there are any that can be asked."""
    gpus = nvidia_gpus()
    if gpus:
        registry.register(GpuCollector(gpus))


def nvidia_gpus() -> list[Gpu]:
    """The GPUs that the driver lets this process see; none without driver or package."""
    try:
        import pynvml  # noqa: PLC0415  # optional, and of no use without a GPU
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        log.debug("gpus_not_watched", error=str(error))
        return []
    found: list[Gpu] = []
    for index in range(count):
        try:
            found.append(_NvidiaGpu(str(index), pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)))
        except pynvml.NVMLError as error:  # one that has fallen off the bus hides no other
            log.warning("gpu_not_watched", gpu=index, error=str(error))
    return found


class _NvidiaGpu:
    def __init__(self, name: str, nvml: ModuleType, handle: object) -> None:
        self.name = name
        self._nvml = nvml
        self._handle = handle

    def memory_bytes(self) -> tuple[int, int]:
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError as error:
            raise Unknown from error
        return int(memory.used), int(memory.total)

    def utilisation(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu) / 100
        except self._nvml.NVMLError as error:
            raise Unknown from error


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "collafuse_gpu_memory_bytes",
            "Memory of a GPU of this machine, used by anybody and in all.",
            labels=["gpu", "state"],
        ),
        GaugeMetricFamily(
            "collafuse_gpu_utilisation_ratio",
            "Share of the last moments in which a GPU of this machine computed, for anybody.",
            labels=["gpu"],
        ),
    )
