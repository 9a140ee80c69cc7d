"""How much is computed: the sizes, lengths and repetitions that all experiments of one evaluation share."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluation.errors import DesignError


@dataclass(frozen=True)
class Design:
    """One budget for every experiment, so that figures can be read against one another.

    schedule, timesteps: of the chain.  cuts: client shares of it, ascending, 0 and 1 among them.
    seeds: of weights, batches and noise, one training for each; three or more, or nothing could be claimed.
    width, head_width: base channels of the backbone (and of every rival's network) and of a head.
    updates, head_updates, batch_size, learning_rate: of the optimiser.
    server_steps, head_steps: network evaluations for one image on the two sides.
    images: how many are generated for each client, seed and set-up.
    main_cut: the cut at which experiments that do not vary it are made.
    """

    schedule: str = "cosine"
    timesteps: int = 1000
    cuts: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    main_cut: float = 0.4
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    width: int = 32
    head_width: int = 16
    updates: int = 6000
    head_updates: int = 3000
    batch_size: int = 64
    learning_rate: float = 2e-3
    server_steps: int = 32
    head_steps: int = 16
    sampler: str = "ddim"
    images: int = 1000

    def __post_init__(self) -> None:
        if len(self.seeds) < 3:
            raise DesignError(f"{len(self.seeds)} seed(s) allow no claim: give three or more")
        if tuple(sorted(set(self.cuts))) != self.cuts or self.cuts[:1] != (0.0,) or self.cuts[-1:] != (1.0,):
            raise DesignError(f"cuts {self.cuts} must rise from 0 to 1")
        if self.main_cut not in self.cuts or not 0 < self.main_cut < 1:
            raise DesignError(f"the main cut {self.main_cut} is none of the inner cuts {self.cuts[1:-1]}")
        if min(self.updates, self.head_updates, self.batch_size, self.server_steps, self.head_steps) < 1:
            raise DesignError("updates, batch size and steps must be 1 or more")
        if self.images < 16:
            raise DesignError(f"{self.images} images say nothing about a distribution: give 16 or more")

    @classmethod
    def quick(cls) -> "Design":
        """What two cores finish in less than twenty minutes: every experiment, three seeds, small networks."""
        return cls(
            cuts=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
            seeds=(0, 1, 2),
            width=16,
            head_width=8,
            updates=400,
            head_updates=240,
            batch_size=32,
            learning_rate=3e-3,
            server_steps=12,
            head_steps=6,
            images=200,
        )

    def changed(self, *, seeds: int | None = None, updates: int | None = None) -> "Design":
        """With another number of seeds, or of updates; a head keeps its share of them."""
        design = self if seeds is None else replace(self, seeds=tuple(range(seeds)))
        if updates is None:
            return design
        head_updates = max(1, round(updates * self.head_updates / self.updates))
        return replace(design, updates=updates, head_updates=head_updates)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the name of what was computed."""
        return asdict(self)
