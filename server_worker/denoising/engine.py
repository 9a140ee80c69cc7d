"""The server's half of the chain, one network call per step for samples of many requests.

Knows no broker and no clock: it is given groups of samples by the scheduler and moves each of them one step along its own plan,
with its own factors, labels, clipping and noise.

A sample's noise does not depend on the batch it is in. The network's float32 rounding does, by some 1e-7, since kernels are
chosen by the batch's size; a step divides that by √ᾱ_t. So the same request agrees to 1e-5 in any company where √ᾱ_T is not
much below 1e-2, and a pixel that no clipping bounds may differ by more on chains that start lower.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion.arrays import Float32, Int64
from server_worker.denoising.arena import Arena
from server_worker.denoising.chain import K_P, K_Z, Chain
from server_worker.denoising.device_noise import noise_on
from server_worker.denoising.runner import Execution, Runner
from server_worker.denoising.scheduler import Group
from server_worker.versions import Backbone


@dataclass(eq=False)
class _Held:
    """A request in the engine. rows: (n,) int64, where each of its samples lies in the arena; -1 before and after."""

    chain: Chain
    rows: Int64 = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.full(self.chain.request.n, -1, np.int64)

    def part(self, group: Group) -> Int64:
        return self.rows[group.first : group.first + group.count]


class Engine:
    """Holds the samples that run, and steps them."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._held: dict[str, _Held] = {}
        self._arenas: dict[tuple[int, int, int], Arena] = {}
        self._runners: dict[int, Runner] = {}
        self._spare: list[Runner] = []
        self._current: int | None = None

    @property
    def versions_in_use(self) -> frozenset[int]:
        """The versions that requests in hand run on."""
        return frozenset(held.chain.backbone.number for held in self._held.values())

    @property
    def versions_loaded(self) -> frozenset[int]:
        """The versions whose weights are in memory to be run."""
        return frozenset(self._runners)

    def runner(self, number: int) -> Runner:
        """What runs a loaded version."""
        return self._runners[number]

    def install(self, backbone: Backbone) -> Runner:
        """Get ready to run a version, the one that new requests come for; what nobody runs any more is let go."""
        self._current = backbone.number
        runner = self._runners.get(backbone.number)
        if runner is None:
            runner = self._made(backbone)
            self._runners[backbone.number] = runner
        self._let_go()
        return runner

    def accept(self, key: str, chain: Chain) -> None:
        """Take a prepared request; its samples begin with the first step that has them."""
        if chain.backbone.number not in self._runners:
            self._runners[chain.backbone.number] = self._made(chain.backbone)
        self._held[key] = _Held(chain)

    def launch(self, groups: Sequence[Group]) -> int:
        """Move every group one step; returns the number of network calls, one for each backbone version present.

        On a GPU the step may still run when this returns: see `wait`.
        """
        by_version: dict[int, list[Group]] = {}
        for group in groups:
            by_version.setdefault(self._held[group.key].chain.backbone.number, []).append(group)
        for number, members in by_version.items():
            self._step(self._runners[number], members)
        return len(by_version)

    def wait(self) -> None:
        """Wait for the step that was launched."""
        if self.execution.asynchronous:
            torch.cuda.synchronize(self.execution.device)

    def finish(self, group: Group) -> Float32:
        """The samples of a group that is done, (k, C, H, W) float32; they leave the engine."""
        held = self._held[group.key]
        rows = held.part(group)
        arena = self._arena(held.chain)
        samples = arena.read(rows)
        arena.free(rows)
        rows[:] = -1
        return samples

    def forget(self, key: str) -> None:
        """Drop a request and whatever of it still runs."""
        held = self._held.pop(key, None)
        if held is None:
            return
        self._arena(held.chain).free(held.rows[held.rows >= 0])
        self._let_go()

    def _made(self, backbone: Backbone) -> Runner:
        fitting = next((runner for runner in self._spare if runner.fits(backbone)), None)
        if fitting is None:
            return Runner(backbone, self.execution)
        self._spare.remove(fitting)
        fitting.load(backbone)
        return fitting

    def _let_go(self) -> None:
        """Drop versions that nobody runs. A compiled one is kept for the next version's weights, if the network is the same."""
        for number in self._runners.keys() - self.versions_in_use - {self._current}:
            runner = self._runners.pop(number)
            if self.execution.sizes:
                self._spare = [runner]
        current = self._runners.get(self._current) if self._current is not None else None
        if current is not None:
            self._spare = [spare for spare in self._spare if spare.fits(current.backbone)]

    def _arena(self, chain: Chain) -> Arena:
        shape = chain.request.shape
        if shape not in self._arenas:
            self._arenas[shape] = Arena(shape, self.execution.device)
        return self._arenas[shape]

    def _begin(self, arena: Arena, held: _Held, group: Group) -> None:
        """Give samples their initial noise, keyed by (seed, index within the request)."""
        chain = held.chain
        indices = np.arange(group.first, group.first + group.count)
        seeds = np.full(group.count, chain.request.seed, np.int64)
        above = np.full(
            group.count, chain.backbone.schedule.T + 1, np.int64
        )  # see `diffusion.noise.initial_noise`
        noise = noise_on(self.execution.device, seeds, indices, above, chain.request.shape)
        held.rows[group.first : group.first + group.count] = arena.put(noise)

    @torch.inference_mode()
    def _step(self, runner: Runner, groups: list[Group]) -> None:
        held = [self._held[group.key] for group in groups]
        arena = self._arena(held[0].chain)
        for each, group in zip(held, groups, strict=True):
            if group.done == 0:
                self._begin(arena, each, group)
        batch = _collect(held, groups)
        second_order = any(each.chain.second_order for each in held)
        rows, t, label = self._on_device(batch.integers)
        x, x0 = runner.step(
            arena.x.index_select(0, rows),
            t,
            label if held[0].chain.labels is not None else None,
            torch.from_numpy(batch.factors).to(self.execution.device),
            x0_prev=arena.x0.index_select(0, rows) if batch.factors[:, K_P].any() else None,
            noise=self._noise(held, groups, batch),
        )
        arena.x.index_copy_(0, rows, x)
        if second_order:
            arena.x0.index_copy_(0, rows, x0)

    def _on_device(self, integers: Int64) -> tuple[Tensor, Tensor, Tensor]:
        rows, t, label = torch.from_numpy(integers).to(self.execution.device).unbind(0)
        return rows, t, label

    def _noise(self, held: list[_Held], groups: list[Group], batch: "_Batch") -> Tensor | None:
        """The step's noise for the samples that use any, zeros for the others; None when none does."""
        using = np.flatnonzero(batch.factors[:, K_Z])
        if not len(using):
            return None
        seeds = np.repeat([each.chain.request.seed for each in held], batch.counts)
        samples = np.concatenate([np.arange(group.first, group.first + group.count) for group in groups])
        shape = held[0].chain.request.shape
        t, device = batch.integers[1], self.execution.device
        made = noise_on(device, seeds[using], samples[using], t[using], shape)
        if len(using) == len(t):
            return made
        noise = made.new_zeros((len(t), *shape))
        return noise.index_copy_(0, torch.from_numpy(using).to(device), made)


@dataclass(frozen=True, eq=False)
class _Batch:
    """What one network call needs to know of its samples.

    counts: samples of each group.  integers: (3, B) int64: row in the arena, t, label.  factors: (B, FACTORS) float32.
    """

    counts: list[int]
    integers: Int64
    factors: Float32


def _collect(held: list[_Held], groups: list[Group]) -> _Batch:
    counts = [group.count for group in groups]
    steps = list(zip(held, groups, strict=True))
    integers: npt.NDArray[np.int64] = np.zeros((3, sum(counts)), np.int64)
    np.concatenate([each.part(group) for each, group in steps], out=integers[0])
    integers[1] = np.repeat([each.chain.t[group.done] for each, group in steps], counts)
    if held[0].chain.labels is not None:
        labels = [
            each.chain.labels[group.first : group.first + group.count]
            for each, group in steps
            if each.chain.labels is not None
        ]
        np.concatenate(labels, out=integers[2])
    factors = np.repeat([each.chain.factors[group.done] for each, group in steps], counts, axis=0)
    return _Batch(counts, integers, factors)
