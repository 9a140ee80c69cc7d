"""What was measured of an exported head before it became a bundle, and what it had to reach."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from export.bundle.canonical import Canonical

Precision = Literal["fp32", "fp16", "int8"]
Figure = Annotated[float, Field(ge=0, allow_inf_nan=False)]

MAX_PSNR_DB: Final = 150.0
"""What equal images are said to have, since infinity is no figure."""


class LevelError(Canonical):
    """How far ε is from torch's over the steps `t_first..t_last`.

    `relative_rms` is the root mean square of the difference, divided by that of torch's ε.
    """

    t_first: int = Field(ge=1)
    t_last: int = Field(ge=1)
    relative_rms: Figure
    max_abs_error: Figure


class StepErrors(Canonical):
    """One network call against torch, over all t and labels; the worst noise level counts."""

    allowed_relative_rms: Figure
    relative_rms: Figure = Field(description="of the worst noise level")
    max_abs_error: Figure
    mean_abs_error: Figure = Field(description="mean over the samples of their largest difference")
    batch_sizes: Annotated[tuple[int, ...], Field(strict=False, min_length=1, max_length=16)]
    evaluations: int = Field(ge=1, description="samples compared")
    levels: Annotated[tuple[LevelError, ...], Field(strict=False, min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _passed(self) -> Self:
        worst = max(level.relative_rms for level in self.levels)
        if self.relative_rms != worst or not worst <= self.allowed_relative_rms:
            raise ValueError(f"a step's error {worst:.1e} is over {self.allowed_relative_rms:.1e}")
        return self


class ChainFidelity(Canonical):
    """Whole images by one step plan, from the same x at the cut, against torch; mean and spread over the seeds.

    Images are in [-1, 1]. The floor is what two runs of torch from other seeds differ by.
    """

    steps: int = Field(ge=1)
    seeds: int = Field(ge=3)
    images: int = Field(ge=2, description="per seed")
    allowed_psnr_db: Figure
    psnr_db: Figure
    psnr_db_spread: Figure
    psnr_db_least: Figure = Field(description="of the worst seed")
    frechet: Figure = Field(description="Fréchet distance in pixels to torch's images of the same start")
    frechet_spread: Figure
    frechet_floor: Figure
    frechet_floor_spread: Figure

    @model_validator(mode="after")
    def _passed(self) -> Self:
        if not self.psnr_db_least >= self.allowed_psnr_db:
            raise ValueError(
                f"images of {self.steps} steps have {self.psnr_db_least:.1f} dB, "
                f"under {self.allowed_psnr_db:.1f}"
            )
        if not self.frechet <= self.frechet_floor:
            raise ValueError(
                f"images of {self.steps} steps are {self.frechet:.2g} from torch's, "
                f"over the floor {self.frechet_floor:.2g}"
            )
        return self


class GateResult(Canonical):
    """All that was measured on one provider of onnxruntime."""

    provider: Literal["cpu", "cuda"]
    step: StepErrors
    chains: Annotated[tuple[ChainFidelity, ...], Field(strict=False, min_length=1, max_length=8)]
    onnxruntime: str = Field(max_length=200)
    torch: str = Field(max_length=200)
