"""The measured figures that `collafuse plan` reckons with, taken from the kept results into the package.

python -m benchmarks.plan_figures
"""

import json
from typing import Any

from benchmarks.report import RESULTS
from collafuse.plan.figures import FIGURES

WANTED = {
    "enrolled_kilobytes": ("devices", "broker's memory for one of 1000 enrolled and idle", "ours"),
    "connected_kilobytes": ("devices", "broker's memory for one of 500 connected, besides", "ours"),
    "working_kilobytes": ("fleet", "broker's memory for a device, enrolled and connected", "ours"),
    "enrolling_milliseconds": ("devices", "enrolling one of 1000 devices", "ours"),
    "return_seconds": ("devices", "all are back after", "ours"),
    "storm_seconds": ("devices", "all are back after", "rival_value"),
    "publishes_of_1_kib": ("publish", "1 KiB, loopback", "ours"),
    "publishes_of_100_kib": ("publish", "100 KiB, loopback", "ours"),
    "publishes_of_1_mib": ("publish", "1 MiB, loopback", "ours"),
    "evaluations_of_3x32x32": (
        "engine",
        "Poisson mix of sizes and plans, 1.07 M parameters, 3×32×32",
        "ours",
    ),
    "evaluations_of_1x8x8": ("engine", "Poisson mix of sizes and plans, 0.64 M parameters, 1×8×8", "ours"),
    "ingest_megabytes": ("store", "ingest of 1 MiB messages", "ours"),
    "openings_of_100k_samples": ("store", "opening 100,000 samples, merged", "ours"),
}
"""Name in the plan → benchmark, the name of its result, and which of its two values."""


def made() -> dict[str, Any]:
    """What the package is to hold, from the results as they are kept now."""
    kept = {
        benchmark: json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))
        for benchmark in sorted({benchmark for benchmark, _, _ in WANTED.values()})
    }
    figures = {}
    for name, (benchmark, wanted, field) in WANTED.items():
        result = next(each for each in kept[benchmark]["results"] if each["name"] == wanted)
        figures[name] = {
            "value": result[field],
            "unit": result["unit"],
            "benchmark": benchmark,
            "result": wanted,
            "field": field,
        }
    return {
        "machines": {benchmark: found["machine"] for benchmark, found in kept.items()},
        "figures": figures,
    }


def main() -> None:
    """Write them where the package looks."""
    FIGURES.write_text(json.dumps(made(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
