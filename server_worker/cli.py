"""`collafuse worker`: train the backbone, denoise for devices, look into the sample store.

torch is imported inside the commands, so that `--help` answers at once.
"""

import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from broker.names import user_name
from broker.options import options_of
from monitoring import logs
from server_worker.errors import NothingToLift, StorageUnusable
from server_worker.restoring import check_not_half_restored
from server_worker.samples import forgetting, summary
from server_worker.samples.store import SampleStore
from server_worker.settings import DenoiseSettings, TrainSettings
from server_worker.storage import Storage
from server_worker.training.parent import failures_told, has_failed_for_good, is_rank

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
    if has_failed_for_good():
        return
    from server_worker import assembly  # brings torch, which --help does without

    settings = TrainSettings.load(config, **flags)
    logs.configure("train")
    if settings.ranks > 1 and not is_rank():
        from server_worker.training.launcher import launch

        assembly.check_ranks(settings)  # what is wrong in all ranks is said once, and not tried again
        launch(sys.argv[1:], settings.ranks, settings.max_restarts)
    else:
        with failures_told():
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
    held_out_share: Annotated[
        float, typer.Option(min=0, max=0.999, help="The share that the train worker keeps from training.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what the sample store holds, by client, device and cut, what is damaged, and who was forgotten."""
    logs.configure("samples", level="warning")
    place = _existing(storage)
    shown = summary.of(place, SampleStore(place, quarantine=False, held_out_share=held_out_share))
    if as_json:
        print(json.dumps(shown))
    else:
        summary.show(shown)


@app.command()
def forget(
    client: Annotated[str, typer.Argument(help="Whose samples.")],
    device: Annotated[str | None, typer.Argument(help="Of this device alone.")] = None,
    storage: Annotated[
        str, typer.Option(help="The directory or URL that the train worker writes to.")
    ] = ".collafuse/server",
    lift: Annotated[
        bool, typer.Option("--lift", help="Let them contribute again; what was erased stays refused.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as one JSON object.")] = False,
) -> None:
    """Erase the samples of a client, or of one device, for good, and take no more of them.

    May be done while workers run. If it is killed, run it again: it goes on where it was.
    """
    logs.configure("forget", level="warning")
    whose = user_name(client, device or "any").removesuffix(
        "" if device else "_any"
    )  # raises for what cannot be a name
    place = _existing(storage)
    if not lift:
        forgetting.begin_anew(place, client, device)
    store = SampleStore(place)
    if lift:
        if store.lift(client, device) is None:
            raise NothingToLift(f"{whose} is not forgotten in {storage}: nothing to lift")
        print(
            json.dumps({"lifted": whose})
            if as_json
            else f"{whose} may contribute again; what was erased stays refused."
        )
        return
    found = store.entries(client=client, device=device)
    question = f"Erase {len(found)} batches, {sum(each.samples for each in found)} samples, of {whose} from {storage} for good?"
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(1)
    receipt = store.forget(client, device)
    print(json.dumps(asdict(receipt)) if as_json else summary.receipt_text(receipt))


@app.command("versions")
def list_versions(
    storage: Annotated[
        str, typer.Option(help="The directory or URL that the train worker writes to.")
    ] = ".collafuse/server",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the published backbone versions, with their loss on held-out releases when they were published."""
    from server_worker import version_list  # brings torch

    logs.configure("versions", level="warning")
    listed = version_list.listed(_existing(storage))
    if as_json:
        print(json.dumps(listed))
    else:
        version_list.print_table(listed)


def _existing(storage: str) -> Storage:
    place = Storage(storage)
    if not place.exists(""):
        raise StorageUnusable(f"there is no storage at {storage}: check --storage")
    check_not_half_restored(place)
    return place


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the worker then ends in order, with exit code 0."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop
