"""What an exported head must reach at each precision before it may become a bundle."""

from dataclasses import dataclass

from export.bundle.gates import Precision
from export.bundle.manifest import Manifest
from export.errors import ParityFailed


@dataclass(frozen=True)
class Bar:
    """The bar of one precision.

    step_relative_rms: largest relative RMS error of ε at any noise level;  psnr_db: least agreement of whole images
    with torch's, of the worst seed;  golden_relative_rms: largest error of the probe on a device, whose arithmetic may
    round differently from the exporter's.
    """

    step_relative_rms: float
    psnr_db: float
    golden_relative_rms: float

    @property
    def worst_sample_relative_rms(self) -> float:
        """One sample may be so far off: a label or a step that fails alone must not drown in the mean."""
        return 4 * self.step_relative_rms


BARS: dict[Precision, Bar] = {
    "fp32": Bar(step_relative_rms=1e-4, psnr_db=60.0, golden_relative_rms=1e-3),
    "fp16": Bar(step_relative_rms=1e-2, psnr_db=40.0, golden_relative_rms=3e-2),
    "int8": Bar(step_relative_rms=0.20, psnr_db=30.0, golden_relative_rms=0.30),
}


def check_bars(manifest: Manifest) -> None:
    """Hold a bundle's own figures against the bars of its precision, whatever bars its maker wrote into it.

    Raises:
        ParityFailed: it would not pass today, or was not measured on the CPU.
    """
    bar, what = BARS[manifest.network.precision], f"head {manifest.name} {manifest.version}"
    if "cpu" not in {gate.provider for gate in manifest.gates}:
        raise ParityFailed(f"{what} was never compared on the CPU; export it again")
    for gate in manifest.gates:
        if gate.step.relative_rms > bar.step_relative_rms:
            raise ParityFailed(
                f"{what} differs from the trained head by {gate.step.relative_rms:.1e} on {gate.provider} (allowed at "
                f"{manifest.network.precision}: {bar.step_relative_rms:.0e}); export it at a higher precision"
            )
        worst_db = min(chain.psnr_db_least for chain in gate.chains)
        if worst_db < bar.psnr_db:
            raise ParityFailed(
                f"images of {what} agree with the trained head's by {worst_db:.1f} dB on {gate.provider} (at least at "
                f"{manifest.network.precision}: {bar.psnr_db:g}); export it at a higher precision"
            )
    if manifest.golden.allowed_relative_rms > bar.golden_relative_rms:
        raise ParityFailed(
            f"{what} allows its probe more than {bar.golden_relative_rms:.0e}; export it again"
        )
