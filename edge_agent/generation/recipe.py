"""How a job is to be made: which steps on which side of the cut. Pure planning; nothing here touches disk or network."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from broker.contract.denoise import DenoiseV1
from broker.contract.rounds import RoundV1
from diffusion.plan import plan
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.errors import JobFailed
from edge_agent.heads.facts import AtCut, HeadFacts
from edge_agent.settings import EdgeSettings

REQUEST_SAMPLES = 256
"""One request asks for at most this many samples, so that several workers can share a large job."""


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a job's pictures, beside its seed, count and label.

    `server_plan` falls from T to the cut and `head_plan` from the cut to 0; a plan of one step evaluates nothing.
    `head` is the identity of the head that has to finish the job, None where no head is needed.
    """

    schedule_id: str
    schedule_steps: int
    shape: tuple[int, int, int]
    server_plan: tuple[int, ...]
    head_plan: tuple[int, ...]
    sampler: Literal["ddim", "ddpm", "dpmpp2m"]
    eta: float
    clip: float | None
    head: str | None

    @property
    def t_cut(self) -> int:
        """Where the server hands over."""
        return self.server_plan[-1]

    @property
    def at_cut(self) -> AtCut:
        """What its samples at the cut are of."""
        return self.schedule_id, self.t_cut, self.shape

    @property
    def asks_the_server(self) -> bool:
        """Whether the server has anything to do."""
        return len(self.server_plan) > 1

    def of_the_server(self) -> Self:
        """The same with nothing said of the head: what its samples at the cut depend on."""
        return replace(self, head_plan=(self.t_cut,), head=None)

    def to_json(self) -> str:
        """The form kept in the spool."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises JobFailed `recipe_damaged` when that is not what stands there any more."""
        try:
            fields = json.loads(text)
            for name in ("shape", "server_plan", "head_plan"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise JobFailed(
                "recipe_damaged", f"how it was to be made cannot be read any more ({error}): ask again"
            ) from error


@dataclass(frozen=True)
class Slice:
    """A run of a job's samples that share a request: sample `first + i` of the job has the noise key (`seed`, i)."""

    first: int
    samples: int
    seed: int


def write_recipe(
    settings: EdgeSettings, head: HeadFacts | None, contract: RoundV1 | None, head_steps: int | None = None
) -> Recipe | None:
    """Fix how a job is made; None while the shape of an image is not known yet (no head, no contract).

    `head_steps`: evaluations of the head, None for the device's own choice.

    Raises JobFailed when head, settings and contract do not fit together: `no_head`, `schedule_mismatch`, `shape_mismatch`.
    """
    schedule = head.schedule if head else NoiseSchedule.named(settings.schedule, settings.schedule_steps)
    t_cut = head.t_cut if head else Cut(schedule, settings.cut_ratio).t_cut
    if head is None and t_cut > 0:
        raise JobFailed(
            "no_head",
            f"there is no usable head bundle, and the server stops at the cut t={t_cut}: make one with `collafuse export head`"
            " and bring it here with `collafuse edge head install`, or set cut_ratio to 0 to let the server do all",
        )
    if contract is not None and contract.schedule_id != schedule.schedule_id:
        raise JobFailed(
            "schedule_mismatch",
            f"the server's schedule is {contract.schedule_id} ({contract.schedule_name}, T={contract.schedule_T}), this"
            f" device's is {schedule.schedule_id} ({schedule.name}, T={schedule.T}): use a head of the server's schedule",
        )
    shape = head.shape if head else contract.shape if contract else None
    if shape is None:
        return None
    if contract is not None and contract.shape != shape:
        raise JobFailed(
            "shape_mismatch", f"the server makes images {contract.shape}, this device's head {shape}"
        )
    return Recipe(
        schedule_id=schedule.schedule_id,
        schedule_steps=schedule.T,
        shape=shape,
        server_plan=plan(schedule, schedule.T, t_cut, settings.server_steps, settings.spacing),
        head_plan=plan(schedule, t_cut, 0, head_steps or settings.head_steps, settings.spacing),
        sampler=settings.sampler,
        eta=settings.eta,
        clip=settings.clip,
        head=head.identity if head else None,
    )


def check_label(label: int | None, head: HeadFacts | None, contract: RoundV1 | None) -> None:
    """Raise JobFailed `unknown_label` when the head or the server knows no such label."""
    if label is None:
        return
    for who, known in (("head", head), ("server", contract)):
        if known is not None and label >= (known.num_classes or 0):
            knows = f"the labels 0..{known.num_classes - 1}" if known.num_classes else "no labels"
            raise JobFailed("unknown_label", f"the label {label} was asked for, but the {who} knows {knows}")


def slices(count: int, seed: int) -> tuple[Slice, ...]:
    """Cut a job of `count` samples into requests. The first keeps the job's seed, later ones have seeds derived from it."""
    firsts = range(0, count, REQUEST_SAMPLES)
    return tuple(Slice(first, min(REQUEST_SAMPLES, count - first), _seed_at(seed, first)) for first in firsts)


def noise_keys(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Seeds and sample indices, (count,) int64 each, that key the noise of a job's samples on either side of the cut."""
    parts = slices(count, seed)
    seeds = np.concatenate([np.full(part.samples, part.seed, np.int64) for part in parts])
    return seeds, np.concatenate([np.arange(part.samples, dtype=np.int64) for part in parts])


def denoise_request(
    recipe: Recipe,
    part: Slice,
    *,
    request_id: str,
    label: int | None,
    dtype: Literal["float16", "float32"],
    ttl_seconds: float | None,
    priority: Literal["interactive", "prefetch"] = "interactive",
) -> DenoiseV1:
    """The message that asks the server for one slice of a job, or, as `prefetch`, for samples to keep in stock."""
    return DenoiseV1(
        request_id=request_id,
        shape=recipe.shape,
        n=part.samples,
        schedule_id=recipe.schedule_id,
        plan=recipe.server_plan,
        sampler=recipe.sampler,
        eta=recipe.eta,
        clip=recipe.clip,
        seed=part.seed,
        labels=None if label is None else np.full(part.samples, label, np.int32),
        dtype=dtype,
        ttl_seconds=ttl_seconds,
        priority=priority,
    )


def _seed_at(seed: int, first: int) -> int:
    if first == 0:
        return seed
    digest = hashlib.sha256(f"collafuse-job-v1|{seed}|{first}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
