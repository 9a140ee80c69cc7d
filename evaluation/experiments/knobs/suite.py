"""The cut and the head's evaluations as two knobs: one sets what is disclosed, the other what a device computes.

The server's part of a chain is made once for every number of its evaluations, and finished by heads of different length.
Nothing is trained for it: backbones and heads are those of the cut sweep.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.network import UNet
from diffusion.noise import initial_noise
from diffusion.plan import SPACINGS
from diffusion.steps import SAMPLERS
from evaluation.data.images import ClientData, LabelledImages
from evaluation.experiments.knobs.grid import Grid, GridKey, SamplerKey
from evaluation.experiments.knobs.report import outcome
from evaluation.measuring.chain import networks_at, trainings_at
from evaluation.measuring.quality import DRAWS, real_floor
from evaluation.metrics.sets import SetFidelity, measure_sets
from evaluation.reporting.outcome import Outcome
from evaluation.running.design import Design
from evaluation.running.generation import BATCH, StepPlan, run_part
from evaluation.running.trainings import Training
from evaluation.running.workbench import Progress, Workbench

TITLE = "Two knobs: the cut and the head's evaluations"
HALF_SAMPLES = 2
"""Of a measurement, which gives its interval: here the spread over seeds alone is used."""

Images = NDArray[np.float32]


def trainings(bench: Workbench) -> list[Training]:
    """Those of the cut sweep's inner cuts."""
    return [t for cut_ratio in inner_cuts(bench.design) for t in trainings_at(bench, cut_ratio)]


def measure(bench: Workbench, progress: Progress) -> Outcome:
    """Measures the grid with the design's sampler, then all samplers at the most private cut."""
    grid, pictures = Grid({}, {}), []
    jobs = list(_jobs(bench.design))
    for done, job in enumerate(jobs):
        progress(done, len(jobs), f"cut {job.cut_ratio:g}, {job.steps.sampler} {job.steps.spacing}")
        found, shown = _measured(bench, job)
        grid = job.into(grid, found)
        if job.pictured:
            pictures = shown
    return outcome(bench, TITLE, grid, real_floor(bench), pictures)


def inner_cuts(design: Design) -> tuple[float, ...]:
    """Where both sides own a part."""
    return design.cuts[1:-1]


def private_cut(design: Design) -> float:
    """The latest inner cut: the least is disclosed there."""
    return inner_cuts(design)[-1]


def head_levels(design: Design) -> tuple[int, ...]:
    """Head evaluations that are tried: powers of two up to twice the design's."""
    return tuple(2**power for power in range((2 * design.head_steps).bit_length()))


def server_levels(design: Design) -> tuple[int, ...]:
    """Server evaluations that are held fixed: a quarter, half and all of the design's."""
    return tuple(sorted({max(1, design.server_steps // part) for part in (4, 2, 1)}))


def hand_over(
    bench: Workbench, client: ClientData, backbone: UNet, t_cut: int, steps: StepPlan, seed: int
) -> Images:
    """The server's part of `generation.generate`: (N, C, H, W) float32 at the cut, for the client's labels."""
    schedule, labels = bench.schedule, bench.labels_for(client)

    def part(rows: NDArray[np.intp]) -> Images:
        x = torch.from_numpy(initial_noise(seed, rows, schedule.T, bench.federation.shape))
        label = torch.from_numpy(labels[rows].astype(np.int64))
        ends = (schedule.T, t_cut, steps.server_steps)
        made: Images = run_part(schedule, backbone, x, label, ends, steps, seed, rows).numpy()
        return made

    return _in_batches(len(labels), part)


def finish(
    bench: Workbench, client: ClientData, head: UNet, at_cut: Images, t_cut: int, steps: StepPlan, seed: int
) -> Images:
    """The head's part, from what was handed over: (N, C, H, W) float32."""
    labels = bench.labels_for(client)

    def part(rows: NDArray[np.intp]) -> Images:
        x, label = torch.from_numpy(at_cut[rows]), torch.from_numpy(labels[rows].astype(np.int64))
        made: Images = run_part(
            bench.schedule, head, x, label, (t_cut, 0, steps.head_steps), steps, seed, rows
        ).numpy()
        return made

    return _in_batches(len(labels), part)


def _in_batches(count: int, part: Callable[[NDArray[np.intp]], Images]) -> Images:
    batches = np.array_split(np.arange(count), max(1, -(-count // BATCH)))
    return np.concatenate([part(rows) for rows in batches])


@dataclass(frozen=True)
class _Job:
    """One cut and one way to sample, with so many server evaluations and every number of head evaluations.

    of_samplers: whether it belongs to the comparison of samplers;  of_grid: to the grid of the design's sampler.
    """

    cut_ratio: float
    steps: StepPlan
    of_grid: bool
    of_samplers: bool
    pictured: bool

    def into(self, grid: Grid, found: dict[int, tuple[tuple[SetFidelity, ...], ...]]) -> Grid:
        """The grid with what was found, for every number of head evaluations."""
        cells, samplers = dict(grid.cells), dict(grid.samplers)
        for head_steps, measured in found.items():
            if self.of_grid:
                cells[GridKey(self.steps.server_steps, self.cut_ratio, head_steps)] = measured
            if self.of_samplers:
                samplers[SamplerKey(self.steps.sampler, self.steps.spacing, head_steps)] = measured
        return Grid(cells, samplers)


def _jobs(design: Design) -> Iterator[_Job]:
    plain = StepPlan(design.server_steps, design.head_steps, design.sampler)
    private = private_cut(design)
    for cut_ratio in inner_cuts(design):
        for server_steps in server_levels(design):
            full = cut_ratio == private and server_steps == design.server_steps
            yield _Job(cut_ratio, replace(plain, server_steps=server_steps), True, full, full)
    for sampler in SAMPLERS:
        for spacing in SPACINGS:
            if (sampler, spacing) != (plain.sampler, plain.spacing):
                yield _Job(private, replace(plain, sampler=sampler, spacing=spacing), False, True, False)


def _measured(
    bench: Workbench, job: _Job
) -> tuple[dict[int, tuple[tuple[SetFidelity, ...], ...]], list[tuple[int, LabelledImages]]]:
    """By head evaluations: for every seed, every client. And the first seed's images for the first client."""
    levels, t_cut = head_levels(bench.design), bench.t_cut(job.cut_ratio)
    found: dict[int, list[tuple[SetFidelity, ...]]] = {level: [] for level in levels}
    shown: list[tuple[int, LabelledImages]] = []
    for seed in bench.design.seeds:
        of_seed: dict[int, list[SetFidelity]] = {level: [] for level in levels}
        for client in bench.federation.clients:
            for level, images in _finished(bench, client, job, t_cut, seed):
                of_seed[level].append(
                    measure_sets(
                        images, client.held_out, bench.extractor, draws=DRAWS, bootstrap=HALF_SAMPLES
                    )
                )
                if len(shown) < len(levels):
                    shown.append((level, images))
        for level in levels:
            found[level].append(tuple(of_seed[level]))
    return {level: tuple(seeds) for level, seeds in found.items()}, shown


def _finished(
    bench: Workbench, client: ClientData, job: _Job, t_cut: int, seed: int
) -> Iterator[tuple[int, LabelledImages]]:
    """The same handed-over images, finished with every number of head evaluations."""
    backbone, head = networks_at(bench, client, job.cut_ratio, seed)
    assert backbone is not None  # inner cuts have both
    assert head is not None
    at_cut = hand_over(bench, client, backbone, t_cut, job.steps, seed)
    for level in head_levels(bench.design):
        steps = replace(job.steps, head_steps=level)
        made = finish(bench, client, head, at_cut, t_cut, steps, seed)
        yield level, LabelledImages(np.clip(made, -1.0, 1.0), bench.labels_for(client))
