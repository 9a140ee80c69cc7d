"""A bundle in words, for a terminal."""

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.table import Table

from export.bundle.gates import GateResult
from export.bundle.manifest import Manifest


def described(manifest: Manifest) -> Table:
    """What a head is and how it was checked, as a table of two columns."""
    title = f"head {manifest.name} {manifest.version}, counter {manifest.counter}"
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, text in (*_facts(manifest), *_measured(manifest)):
        table.add_row(name, text)
    for member, digest in sorted(manifest.digests.items()):
        table.add_row(member, f"sha256 {digest}")
    return table


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    network, training = manifest.network, manifest.training
    expiry = "never" if manifest.expires_at is None else _moment(manifest.expires_at)
    yield "client", manifest.client
    yield "issued", f"{_moment(manifest.issued_at)}, expires {expiry}"
    yield "agent", f"{manifest.minimum_agent} or newer"
    yield "schedule", f"{manifest.schedule_name}, T={manifest.schedule_T}, id {manifest.schedule_id}"
    yield "steps", f"t = {manifest.t_first} .. {manifest.t_cut}"
    shape = " x ".join(str(size) for size in manifest.image_shape)
    yield "images", f"{shape} (channels, height, width)"
    yield "labels", ", ".join(manifest.labels) or "none"
    yield "network", f"{network.parameters:,} parameters, {network.precision}, opset {network.opset}"
    if network.calibration is not None:
        yield "calibration", network.calibration
        yield "kept in float", ", ".join(network.kept_in_float) or "nothing"
    yield (
        "training",
        (
            f"{training.steps} steps of {training.batch_size} on {training.images} images in "
            f"{training.seconds:.0f} s, final loss {training.final_loss:.4f}"
        ),
    )


def _measured(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for gate in manifest.gates:
        yield from _gate(gate)
    golden = manifest.golden
    yield "golden", f"{golden.count} probes, relative error at most {golden.allowed_relative_rms:.1e}"


def _gate(gate: GateResult) -> Iterator[tuple[str, str]]:
    step = gate.step
    for level in step.levels:
        yield (
            f"{gate.provider}: error at t={level.t_first}..{level.t_last}",
            f"{level.relative_rms:.1e} relative RMS, {level.max_abs_error:.1e} at most",
        )
    yield (
        f"{gate.provider}: worst level",
        f"{step.relative_rms:.1e} (allowed {step.allowed_relative_rms:.0e})",
    )
    for chain in gate.chains:
        yield (
            f"{gate.provider}: images of {chain.steps} steps",
            (
                f"{chain.psnr_db:.1f} ± {chain.psnr_db_spread:.1f} dB (at least {chain.allowed_psnr_db:g}), "
                f"Fréchet distance {chain.frechet:.2g} ± {chain.frechet_spread:.2g} "
                f"(floor {chain.frechet_floor:.2g} ± {chain.frechet_floor_spread:.2g})"
            ),
        )


def _moment(unix_seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{unix_seconds} s after 1970"
