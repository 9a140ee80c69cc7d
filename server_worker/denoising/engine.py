"""The server's half of the chain, one network call per step for samples of many requests.

Knows no broker and no clock: it is given groups of samples by the scheduler and moves each of them one step along its own plan,
with its own coefficients, labels, clipping and noise.

A sample's noise does not depend on the batch it is in. The network's float32 rounding does, by some 1e-7, since kernels are
chosen by the batch's size; a step divides that by √ᾱ_t. So the same request agrees to 1e-5 in any company where √ᾱ_T is not
much below 1e-2, and a pixel that no clipping bounds may differ by more on chains that start lower.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from broker.messages import DenoiseV1
from diffusion.noise import initial_noise, sampling_noise
from diffusion.plan import check_plan
from diffusion.steps import StepCoefficients, advance, coefficients, predict_x0
from server_worker.denoising.scheduler import Group
from server_worker.errors import CannotServe
from server_worker.versions import Backbone

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Chain:
    """A request made ready: its network, and the factors of every step of its plan (one entry per evaluation)."""

    request: DenoiseV1
    backbone: Backbone
    factors: StepCoefficients


@dataclass(eq=False)
class _State:
    """Where the samples of one group are: x (k, C, H, W) and the prediction before, both on the device."""

    x: Tensor
    x0: Tensor | None = None


def prepare(request: DenoiseV1, backbone: Backbone) -> Chain:
    """Check a request against a backbone and work out its coefficients.

    Raises CannotServe, naming what was asked and what there is.
    """
    manifest, schedule = backbone.manifest, backbone.schedule
    if request.schedule_id != schedule.schedule_id:
        raise CannotServe(
            "schedule_mismatch",
            f"the request is for schedule {request.schedule_id}, this backbone is for {schedule.schedule_id}",
        )
    if request.shape != manifest.shape:
        raise CannotServe(
            "shape_mismatch", f"samples of {request.shape} asked for, this backbone makes {manifest.shape}"
        )
    if request.t_stop < manifest.t_cut_min:
        raise CannotServe(
            "below_trained_cut",
            f"asked to stop at t={request.t_stop}, backbone version {manifest.number} was trained from {manifest.t_cut_min} up",
        )
    if request.plan[0] != schedule.T:
        raise CannotServe(
            "bad_plan", f"the plan starts at {request.plan[0]}, the chain starts at {schedule.T}"
        )
    check_plan(request.plan, schedule.T)
    _check_labels(request, manifest.num_classes)
    t, s = np.array(list(pairwise(request.plan)), np.int64).T
    factors = coefficients(
        schedule, request.sampler, t, s, eta=request.eta, t_prev=np.concatenate(([-1], t[:-1]))
    )
    return Chain(request, backbone, factors)


def _check_labels(request: DenoiseV1, num_classes: int | None) -> None:
    if request.labels is None:
        return
    if num_classes is None:
        raise CannotServe("unexpected_labels", "labels asked for, this backbone was trained without any")
    if int(request.labels.max()) >= num_classes:
        raise CannotServe(
            "label_out_of_range",
            f"label {int(request.labels.max())} asked for, there are 0 to {num_classes - 1}",
        )


class Engine:
    """Holds the samples that run, and steps them.

    device: where the networks are and the samples stay until they are done.
    precision: "float32", or the type that the network's matrix products are cast to. The sampler's arithmetic is float32.
    """

    def __init__(self, device: torch.device, precision: str = "float32") -> None:
        self._device = device
        self._precision = precision
        self._chains: dict[str, Chain] = {}
        self._states: dict[tuple[str, int], _State] = {}

    @property
    def versions_in_use(self) -> frozenset[int]:
        """The versions that requests in hand run on."""
        return frozenset(chain.backbone.number for chain in self._chains.values())

    def accept(self, key: str, chain: Chain) -> None:
        """Take a prepared request; its samples start when their groups are begun."""
        self._chains[key] = chain

    def begin(self, group: Group) -> None:
        """Give the samples of a group their initial noise, keyed by (seed, index within the request)."""
        chain = self._chains[group.key]
        indices = np.arange(group.first, group.first + group.count)
        noise = initial_noise(chain.request.seed, indices, chain.backbone.schedule.T, chain.request.shape)
        self._states[group.key, group.first] = _State(torch.from_numpy(noise).to(self._device))

    @torch.inference_mode()
    def step(self, groups: Sequence[Group]) -> int:
        """Move every group one step; returns the number of network calls: one per backbone version present."""
        by_version: dict[int, list[Group]] = {}
        for group in groups:
            by_version.setdefault(self._chains[group.key].backbone.number, []).append(group)
        for members in by_version.values():
            self._step_together(members)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that the time of a step is the time of a step
        return len(by_version)

    def finish(self, group: Group) -> npt.NDArray[np.float32]:
        """The samples of a group that is done, (k, C, H, W) float32; they leave the engine."""
        samples: npt.NDArray[np.float32] = self._states.pop((group.key, group.first)).x.float().cpu().numpy()
        return samples

    def forget(self, key: str) -> None:
        """Drop a request and whatever of it still runs."""
        self._chains.pop(key, None)
        for state in [state for state in self._states if state[0] == key]:
            del self._states[state]

    def _step_together(self, groups: list[Group]) -> None:
        chains = [self._chains[group.key] for group in groups]
        states = [self._states[group.key, group.first] for group in groups]
        counts = [group.count for group in groups]
        backbone = chains[0].backbone
        x = torch.cat([state.x for state in states])
        t = np.repeat(
            [chain.request.plan[group.done] for chain, group in zip(chains, groups, strict=True)], counts
        )
        factors = _gather_factors(chains, groups, counts)
        eps = self._predict(backbone, x, t, _labels(chains, groups, backbone.manifest.num_classes))
        x0 = predict_x0(backbone.schedule, x, eps, t, _clips(chains, counts))
        before = None
        if factors.x0_prev.any():
            before = torch.cat(
                [torch.zeros_like(state.x) if state.x0 is None else state.x0 for state in states]
            )
        x = advance(x, x0, before, self._noise(chains, groups, t, factors), factors)
        for state, moved, predicted in zip(
            states, torch.split(x, counts), torch.split(x0, counts), strict=True
        ):
            state.x, state.x0 = moved, predicted

    def _predict(
        self, backbone: Backbone, x: Tensor, t: npt.NDArray[np.int64], labels: npt.NDArray[np.int64] | None
    ) -> Tensor:
        label = None if labels is None else torch.from_numpy(labels).to(self._device)
        with self._autocast():
            predicted: Tensor = backbone.network(x, torch.from_numpy(t).to(self._device), label)
        return predicted.float()

    def _autocast(self) -> AbstractContextManager[object]:
        dtype = _AUTOCAST.get(self._precision)
        return nullcontext() if dtype is None else torch.autocast(self._device.type, dtype)

    def _noise(
        self, chains: list[Chain], groups: list[Group], t: npt.NDArray[np.int64], factors: StepCoefficients
    ) -> Tensor | None:
        """The step's noise for the samples that use any, zeros for the others; None when none does."""
        rows = np.flatnonzero(factors.noise)
        if not len(rows):
            return None
        counts = [group.count for group in groups]
        seeds = np.repeat([chain.request.seed for chain in chains], counts)
        samples = np.concatenate([np.arange(group.first, group.first + group.count) for group in groups])
        shape = chains[0].request.shape
        noise = np.zeros((len(t), *shape), np.float32)
        noise[rows] = sampling_noise(seeds[rows], samples[rows], t[rows], shape)
        return torch.from_numpy(noise).to(self._device)


def _gather_factors(chains: list[Chain], groups: list[Group], counts: list[int]) -> StepCoefficients:
    """The factors of this step for every sample of the batch, (B,) float64 each."""
    steps = list(zip(chains, groups, strict=True))
    return StepCoefficients(
        x=np.repeat([chain.factors.x[group.done] for chain, group in steps], counts),
        x0=np.repeat([chain.factors.x0[group.done] for chain, group in steps], counts),
        x0_prev=np.repeat([chain.factors.x0_prev[group.done] for chain, group in steps], counts),
        noise=np.repeat([chain.factors.noise[group.done] for chain, group in steps], counts),
    )


def _clips(chains: list[Chain], counts: list[int]) -> npt.NDArray[np.float64] | None:
    bounds = [np.inf if chain.request.clip is None else chain.request.clip for chain in chains]
    return None if all(np.isinf(bounds)) else np.repeat(np.asarray(bounds, np.float64), counts)


def _labels(
    chains: list[Chain], groups: list[Group], num_classes: int | None
) -> npt.NDArray[np.int64] | None:
    """(B,) int64 labels, `num_classes` where there is none; None for a network without labels."""
    if num_classes is None:
        return None
    parts = [
        np.full(group.count, num_classes, np.int64)
        if chain.request.labels is None
        else chain.request.labels[group.first : group.first + group.count].astype(np.int64)
        for chain, group in zip(chains, groups, strict=True)
    ]
    return np.concatenate(parts)
