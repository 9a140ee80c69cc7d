"""The published versions as a list, for people and for programs."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from monitoring.metrics import NOISE_LEVELS
from server_worker import versions
from server_worker.storage import Storage


def listed(storage: Storage) -> dict[str, Any]:
    """Which versions there are, rising, and which is the latest and the best. Raises Damaged for an unreadable one."""
    numbers = versions.published(storage)
    return {
        "latest": versions.latest(storage),
        "best": versions.best(storage),
        "versions": [asdict(versions.read_manifest(storage, number)) for number in numbers],
    }


def print_table(listing: dict[str, Any]) -> None:
    """One row per version."""
    table = Table(title=f"{len(listing['versions'])} backbone versions, loss on held-out releases")
    for name in ("version", "steps", "samples", "held out", *NOISE_LEVELS, ""):
        table.add_column(name, justify="right" if name else "left")
    for row in listing["versions"]:
        losses = [row["held_out_loss"], *(row["held_out_by_level"].get(level) for level in NOISE_LEVELS)]
        shown = ["-" if loss is None else f"{loss:.4f}" for loss in losses]
        marks = [name for name in ("latest", "best") if listing[name] == row["number"]]
        table.add_row(
            *(str(row["number"]), str(row["steps"]), str(row["samples_seen"])), *shown, " ".join(marks)
        )
    Console().print(table)
