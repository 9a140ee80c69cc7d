"""Making images that were asked for, with a chain that is cut: how strongly each side is asked, and what the server hears."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.guidance import guided
from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import NoiseSchedule
from evaluation.conditioning.asked_network import Question
from evaluation.running.generation import BATCH, StepPlan


@dataclass(frozen=True)
class Guidance:
    """The guidance scale on each side of the cut: 0 asks nothing there, 1 is the network's own answer.

    A server of scale 0 is told nothing, and what it computes depends on nothing that was asked.
    """

    server: float
    head: float

    @property
    def words(self) -> str:
        """For a reader: who is asked."""
        if self.server and self.head:
            return "server and head"
        return "server only" if self.server else "head only" if self.head else "nobody"


@dataclass(frozen=True)
class Chain:
    """A chain and where it is cut.  shape: (C, H, W) of an image."""

    schedule: NoiseSchedule
    t_cut: int
    steps: StepPlan
    shape: tuple[int, int, int]


def server_part(chain: Chain, question: Question, scale: float, seed: int) -> NDArray[np.float32]:
    """The server's part, T → t_cut: (N, C, H, W) float32, one image for each row of the question."""
    rows = np.arange(len(question.asked))
    x = torch.from_numpy(initial_noise(seed, rows, chain.schedule.T, chain.shape))
    return _part(chain, question, scale, x, (chain.schedule.T, chain.t_cut, chain.steps.server_steps), seed)


def head_part(
    chain: Chain, question: Question, scale: float, at_cut: NDArray[np.float32], seed: int
) -> NDArray[np.float32]:
    """The head's part, t_cut → 0, from what the server handed over: (N, C, H, W) float32."""
    x = torch.from_numpy(at_cut)
    return _part(chain, question, scale, x, (chain.t_cut, 0, chain.steps.head_steps), seed)


def _part(
    chain: Chain, question: Question, scale: float, x: Tensor, part: tuple[int, int, int], seed: int
) -> NDArray[np.float32]:
    start, stop, evaluations = part
    steps = plan(chain.schedule, start, stop, evaluations, chain.steps.spacing)
    done: list[NDArray[np.float32]] = []
    for first in range(0, len(x), BATCH):
        rows = slice(first, first + BATCH)
        asked = question.of(rows)
        with torch.inference_mode():
            finished = run(
                chain.schedule,
                guided(asked.predict, asked.asked, asked.nothing, scale),
                x[rows],
                steps,
                chain.steps.sampler,
                eta=chain.steps.eta,
                clip=chain.steps.clip,
                seeds=seed,
                samples=np.arange(len(x))[rows],
            )
        done.append(finished.numpy().copy())
    return np.concatenate(done)
