"""What an exported head must reach at each precision before it may become a bundle."""

from dataclasses import dataclass

from export.gates import Precision


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
    "int8": Bar(step_relative_rms=0.10, psnr_db=20.0, golden_relative_rms=0.25),
}
