"""The figures that were measured, each with the benchmark it comes from and the machine it was measured on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("figures.json")
"""Made from benchmarks/results by `python -m benchmarks.plan_figures`."""

STORM_DEVICES = 500
"""So many came back at once in the benchmark `devices`."""

_KIB_BYTES = 1024


@dataclass(frozen=True)
class Figure:
    """One measured value. source: benchmark and the name of its result, for people."""

    value: float
    unit: str
    source: str


class Figures:
    """All of them by name, and the units in which the planner reckons."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.machines: dict[str, dict[str, Any]] = kept["machines"]
        self._figures = {
            name: Figure(float(each["value"]), each["unit"], f"benchmark {each['benchmark']}: {_named(each)}")
            for name, each in kept["figures"].items()
        }

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    @property
    def machine(self) -> str:
        """What they were measured on, in words."""
        about = self.machines["devices"]
        return (
            f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']} GB of memory, {about['system']}"
        )

    @property
    def gpu_is_measured(self) -> bool:
        """Whether the denoising engine's kept figures are a GPU's."""
        return bool(self.machines["engine"]["device"] != "cpu")

    def denoise_evaluations_per_second(self, shape: tuple[int, int, int]) -> Figure | None:
        """What one denoise worker does with images (C, H, W); None for a shape that nobody measured."""
        return self._figures.get("evaluations_of_" + "x".join(map(str, shape)))

    @property
    def connections_per_second(self) -> float:
        """So many devices one node lets in when all come at once."""
        return STORM_DEVICES / self["storm_seconds"].value

    def publish_seconds(self, size_bytes: float) -> float:
        """What a node needs for one confirmed message of this size: a line between the measured sizes, and on beyond the last."""
        sizes = (_KIB_BYTES, 100 * _KIB_BYTES, 1024 * _KIB_BYTES)
        names = ("publishes_of_1_kib", "publishes_of_100_kib", "publishes_of_1_mib")
        seconds = [1 / self[name].value for name in names]
        if size_bytes <= sizes[0]:
            return seconds[0]
        upper = 1 if size_bytes <= sizes[1] else 2
        share = (size_bytes - sizes[upper - 1]) / (sizes[upper] - sizes[upper - 1])
        return seconds[upper - 1] + share * (seconds[upper] - seconds[upper - 1])


def _named(each: dict[str, Any]) -> str:
    rival = " (the rival's)" if each["field"] == "rival_value" else ""
    return f"{each['result']}{rival}"


def kept() -> Figures:
    """The figures that came with this package."""
    return Figures(json.loads(FIGURES.read_text(encoding="utf-8")))
