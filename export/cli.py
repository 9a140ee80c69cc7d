"""The command `collafuse export`: make a bundle of a trained head, sign it, and look into one."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from export.bundle.gates import Precision
from export.delivery import cli as delivery_cli
from export.errors import ExportError
from export.signing import cli as signing_cli

app = typer.Typer(help="Turn a trained head into a bundle for devices.", no_args_is_help=True)
app.command()(delivery_cli.publish)
app.command()(delivery_cli.rollout)


@app.callback()
def _main() -> None:
    """Turn a trained head into a bundle for devices."""


for _command in (signing_cli.keygen, signing_cli.keys, signing_cli.sign, signing_cli.verify):
    app.command()(_command)


@app.command()
def head(
    checkpoint: Annotated[Path, typer.Argument(help="Head checkpoint made by head training.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
    *,
    name: Annotated[str | None, typer.Option(help="The head's name; the client's by default.")] = None,
    version: Annotated[str | None, typer.Option(help="For people; the counter by default.")] = None,
    counter: Annotated[int, typer.Option(min=1, help="Grows with every head of this name.")] = 1,
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, help="After so long no device takes it any more.")
    ] = None,
    minimum_agent: Annotated[str, typer.Option(help="Oldest agent that may run it.")] = "0.1.0",
    precision: Annotated[str, typer.Option(help="fp32, fp16 (for CUDA) or int8 (for CPUs).")] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(help=".npy or .npz of images to calibrate and measure with; they stay here."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", "-k", help="Private key that signs the bundle.")
    ] = None,
    key_list: Annotated[
        Path | None, typer.Option("--keys", help="Signed lists of keys that travel with it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a trained head, compare it with the original, and write the bundle if they agree."""
    try:
        # Only here: `inspect` and the devices need none of it.
        from export.bundle.keys import NO_KEY_LIST
        from export.head_export import Issue, export_head
        from export.signing.key_files import read_key_list, read_private_key
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}; install it with: pip install 'collafuse-edge[export]'"
        ) from error
    if precision not in get_args(Precision):
        raise ExportError(f"{precision!r} is no precision; choose {', '.join(get_args(Precision))}")
    issue = Issue(name, version, counter, None, expires_in_days, minimum_agent)
    with Console(stderr=True).status("starting") as status:
        manifest = export_head(
            checkpoint,
            out,
            issue=issue,
            precision=cast("Precision", precision),
            calibration=calibration,
            key=read_private_key(key, signing_cli.passphrase()) if key else None,
            key_list=read_key_list(key_list) if key_list else NO_KEY_LIST,
            on_stage=status.update,
        )
    if json:
        print(manifest.to_bytes().decode())
        return
    worst = max(gate.step.relative_rms for gate in manifest.gates)
    print(
        f"{out}: head {manifest.name} {manifest.version} (counter {manifest.counter}), "
        f"t={manifest.t_first}..{manifest.t_cut}, {manifest.network.precision}, {out.stat().st_size} bytes, "
        f"differs from torch by at most {worst:.1e}"
    )


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check and describe.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check every byte of a bundle and say what it holds."""
    from export.bundle.bundle import read_bundle
    from export.description import described

    manifest = read_bundle(bundle).manifest
    if json:
        print(manifest.to_bytes().decode())
        return
    Console().print(described(manifest))
