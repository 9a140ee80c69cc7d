"""What others have to know of a head to plan with it; it need not be loaded for that."""

from dataclasses import dataclass

from diffusion.schedule import NoiseSchedule

AtCut = tuple[str, int, tuple[int, int, int]]
"""Schedule id, cut and shape (C, H, W) of samples: what a head must own to finish them."""


@dataclass(frozen=True)
class HeadFacts:
    """Of one head; `identity` changes whenever the bundle does."""

    identity: str
    schedule: NoiseSchedule
    t_cut: int
    shape: tuple[int, int, int]
    num_classes: int | None

    @property
    def at_cut(self) -> AtCut:
        """The samples that this head can finish."""
        return self.schedule.schedule_id, self.t_cut, self.shape
