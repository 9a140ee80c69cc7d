"""What a report says of the run it comes from, and what is printed at its end."""

import importlib.metadata
import platform
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from os import cpu_count
from typing import Any

from evaluation.reporting.outcome import Outcome, Weight
from evaluation.running.runner import Evaluation
from evaluation.running.workbench import Workbench

PACKAGES = ("collafuse-edge", "torch", "torchmetrics", "scikit-learn", "numpy")


def facts_of(evaluation: Evaluation, *, command: str) -> dict[str, Any]:
    """Plain values: command, machine, versions, budget, data, how long it took."""
    bench = Workbench(evaluation.setting)
    begun = datetime.now(UTC) - timedelta(seconds=evaluation.seconds)
    return {
        "command": command,
        "started_at": begun.isoformat(timespec="seconds"),
        "seconds": round(evaluation.seconds, 1),
        "machine": f"{cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "design": evaluation.setting.design.to_dict(),
        "networks": evaluation.networks,
        "extractor": evaluation.extractor_name,
        "data": {
            "name": bench.federation.name,
            "fingerprint": evaluation.fingerprint,
            "shape": list(bench.federation.shape),
            "clients": [
                {
                    "name": client.name,
                    "train_images": len(client.train),
                    "held_out_images": len(client.held_out),
                    "labels": [bench.federation.label_names[label] for label in client.labels],
                }
                for client in bench.federation.clients
            ],
        },
    }


def in_words(outcomes: Sequence[Outcome]) -> str:
    """The findings by experiment, claims first, one line each."""
    order = (Weight.FAILED_CONTROL, Weight.CLAIM, Weight.FACT, Weight.UNDECIDED, Weight.CONTROL)
    lines: list[str] = []
    for outcome in outcomes:
        lines += [outcome.title]
        for finding in sorted(outcome.findings, key=lambda finding: order.index(finding.weight)):
            lines += [f"  {finding.weight.value + ':':<16}{finding.text}"]
        lines += [""]
    return "\n".join(lines)
