"""The command `collafuse export`: make a bundle of a trained head, and look into one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from export.bundle import read_bundle
from export.errors import ExportError
from export.manifest import Manifest

app = typer.Typer(help="Turn a trained head into a bundle for devices.", no_args_is_help=True)


@app.callback()
def _main() -> None:
    """Turn a trained head into a bundle for devices."""


@app.command()
def head(
    checkpoint: Annotated[Path, typer.Argument(help="Head checkpoint made by head training.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
    name: Annotated[str | None, typer.Option(help="The head's name; the client's by default.")] = None,
    version: Annotated[int, typer.Option(min=1, help="Grows with every head of this name.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a trained head, compare it with the original, and write the bundle if they agree."""
    try:
        # Only here: `inspect` and the devices need none of it.
        from export.head_export import export_head
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}; install it with: pip install 'collafuse-edge[export]'"
        ) from error
    with Console(stderr=True).status("starting") as status:
        manifest = export_head(checkpoint, out, name=name, version=version, on_stage=status.update)
    if json:
        print(manifest.to_bytes().decode())
        return
    print(
        f"{out}: head {manifest.name} version {manifest.version}, t={manifest.t_first}..{manifest.t_cut}, "
        f"{out.stat().st_size} bytes, differs from torch by at most {manifest.parity.max_abs_error:.1e}"
    )


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check and describe.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check every byte of a bundle and say what it holds."""
    manifest = read_bundle(bundle).manifest
    if json:
        print(manifest.to_bytes().decode())
        return
    Console().print(_described(manifest))


def _described(manifest: Manifest) -> Table:
    table = Table(title=f"head {manifest.name}, version {manifest.version}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    network, training, parity = manifest.network, manifest.training, manifest.parity
    shape = " x ".join(str(size) for size in manifest.image_shape)
    table.add_row("client", manifest.client)
    table.add_row("schedule", f"{manifest.schedule_name}, T={manifest.schedule_T}, id {manifest.schedule_id}")
    table.add_row("steps", f"t = {manifest.t_first} .. {manifest.t_cut}")
    table.add_row("images", f"{shape} (channels, height, width)")
    table.add_row("labels", ", ".join(manifest.labels) or "none")
    table.add_row("network", f"{network.parameters:,} parameters, {network.precision}, opset {network.opset}")
    table.add_row(
        "training",
        f"{training.steps} steps of {training.batch_size} on {training.images} images in "
        f"{training.seconds:.0f} s, final loss {training.final_loss:.4f}",
    )
    for level in parity.noise_levels:
        table.add_row(f"error t={level.t_first}..{level.t_last}", f"{level.max_abs_error:.1e}")
    table.add_row("largest error", f"{parity.max_abs_error:.1e} (allowed {parity.threshold:.0e})")
    for member, digest in sorted(manifest.digests.items()):
        table.add_row(member, f"sha256 {digest}")
    return table
