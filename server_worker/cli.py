"""`collafuse worker`: train the backbone, denoise for devices, look into the sample store.

torch is imported inside the commands, so that `--help` answers at once.
"""

import json
import signal
import sys
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.table import Table

from monitoring import logs
from monitoring.metrics import NOISE_LEVELS
from server_worker.errors import StorageUnusable
from server_worker.options import options_of
from server_worker.samples.store import SampleStore
from server_worker.settings import DenoiseSettings, TrainSettings
from server_worker.storage import Storage
from server_worker.training.parent import is_rank

log = structlog.get_logger(__name__)

app = typer.Typer(
    help="Train the backbone, denoise for devices, look into the sample store.", no_args_is_help=True
)

Config = Annotated[Path | None, typer.Option("--config", help="A TOML file of the settings below.")]


@app.command()
@options_of(TrainSettings)
def train(config: Config = None, **flags: Any) -> None:
    """Take released samples in, train the backbone on them, and publish its versions.

    Every option may be given as a variable COLLAFUSE_TRAIN_OPTION too, or as a key of the --config file.
    """
    from server_worker import assembly  # brings torch, which --help does without

    settings = TrainSettings.load(config, **flags)
    logs.configure("train")
    if settings.ranks > 1 and not is_rank():
        from server_worker.training.launcher import launch

        assembly.prepare_training(settings)  # what is wrong in all ranks is said once, and not tried again
        launch(sys.argv[1:], settings.ranks, settings.max_restarts)
    else:
        assembly.run_train(settings, _stop_on_signals())


@app.command()
@options_of(DenoiseSettings)
def denoise(config: Config = None, **flags: Any) -> None:
    """Run the server's half of the chain for whoever asks, continuously batched.

    Every option may be given as a variable COLLAFUSE_DENOISE_OPTION too, or as a key of the --config file.
    """
    from server_worker import assembly  # brings torch

    settings = DenoiseSettings.load(config, **flags)
    logs.configure("denoise")
    assembly.run_denoise(settings, _stop_on_signals())


@app.command()
def samples(
    storage: Annotated[
        str, typer.Option(help="The directory or URL that the train worker writes to.")
    ] = ".collafuse/server",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the sample store holds, by client, device and cut."""
    logs.configure("samples", level="warning")
    place = Storage(storage)
    if not place.exists(""):
        raise StorageUnusable(f"there is no storage at {storage}: check --storage")
    summary = _summary(SampleStore(place, quarantine=False))
    if as_json:
        print(json.dumps(summary))
    else:
        _print_summary(summary)


@app.command("versions")
def list_versions(
    storage: Annotated[
        str, typer.Option(help="The directory or URL that the train worker writes to.")
    ] = ".collafuse/server",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the published backbone versions, with their loss on held-out releases when they were published."""
    from server_worker import versions  # brings torch

    logs.configure("versions", level="warning")
    place = Storage(storage)
    if not place.exists(""):
        raise StorageUnusable(f"there is no storage at {storage}: check --storage")
    summary = {
        "latest": versions.latest(place),
        "best": versions.best(place),
        "versions": [asdict(versions.read_manifest(place, number)) for number in versions.published(place)],
    }
    if as_json:
        print(json.dumps(summary))
    else:
        _print_versions(summary)


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the worker then ends in order, with exit code 0."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _summary(store: SampleStore) -> dict[str, Any]:
    groups: dict[tuple[str, str, int], dict[str, Any]] = {}
    labels: dict[tuple[str, str, int], Counter[int]] = {}
    for entry in store.entries():
        key = (entry.client, entry.device, entry.t_cut)
        row = groups.setdefault(
            key, {"client": key[0], "device": key[1], "t_cut": key[2], "batches": 0, "samples": 0, "bytes": 0}
        )
        row["batches"] += 1
        row["samples"] += entry.samples
        row["bytes"] += entry.size_bytes
        labels.setdefault(key, Counter()).update(label for label in entry.labels if label >= 0)
    for key, row in groups.items():
        row["labels"] = {str(label): count for label, count in sorted(labels[key].items())}
    return {
        "samples": store.samples,
        "bytes": store.size_bytes,
        "groups": [groups[key] for key in sorted(groups)],
        "quarantined": [
            {"batch": batch, "reason": reason} for batch, reason in sorted(store.quarantined.items())
        ],
    }


def _print_versions(summary: dict[str, Any]) -> None:
    table = Table(title=f"{len(summary['versions'])} backbone versions, loss on held-out releases")
    for name in ("version", "steps", "samples", "held out", *NOISE_LEVELS, ""):
        table.add_column(name, justify="right" if name else "left")
    for row in summary["versions"]:
        losses = [row["held_out_loss"], *(row["held_out_by_level"].get(level) for level in NOISE_LEVELS)]
        shown = ["-" if loss is None else f"{loss:.4f}" for loss in losses]
        marks = [name for name in ("latest", "best") if summary[name] == row["number"]]
        table.add_row(
            *(str(row["number"]), str(row["steps"]), str(row["samples_seen"])), *shown, " ".join(marks)
        )
    Console().print(table)


def _print_summary(summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['samples']} samples, {summary['bytes'] / 1e6:.1f} MB")
    for name in ("client", "device", "cut t_c", "batches", "samples", "MB", "labels"):
        table.add_column(name, justify="left" if name in ("client", "device", "labels") else "right")
    for row in summary["groups"]:
        numbers = (row["t_cut"], row["batches"], row["samples"], f"{row['bytes'] / 1e6:.1f}")
        shown = " ".join(f"{label}:{count}" for label, count in row["labels"].items()) or "none"
        table.add_row(row["client"], row["device"], *map(str, numbers), shown)
    console = Console()
    console.print(table)
    for damaged in summary["quarantined"]:
        console.print(f"damaged: {damaged['batch']}: {damaged['reason']}", style="red")
