"""A request made ready: checked against a backbone, with the factors of every step of its plan worked out."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from broker.contract.denoise import DenoiseV1
from diffusion.arrays import Float32, Int64
from diffusion.plan import check_plan
from diffusion.schedule import NoiseSchedule
from diffusion.steps import coefficients
from server_worker.errors import CannotServe
from server_worker.versions import Backbone

# Columns of a chain's factors; see `diffusion.steps` for what they mean.
SIGMA, INVERSE_ROOT, BOUND, K_X, K_0, K_P, K_Z = range(7)
FACTORS = 7


@dataclass(frozen=True, eq=False)
class Chain:
    """A request and its network.

    t: (evaluations,) int64, where the network is evaluated.
    factors: (evaluations, FACTORS) float32: √(1-ᾱ_t), 1/√ᾱ_t, the bound on |x̂_0| (inf for none), k_x, k_0, k_p, k_z.
    labels: (n,) int64, or None for a network without labels.
    second_order: whether any of its steps needs the prediction before.
    """

    request: DenoiseV1
    backbone: Backbone
    t: Int64
    factors: Float32
    labels: Int64 | None
    second_order: bool


def prepare(request: DenoiseV1, backbone: Backbone) -> Chain:
    """Check a request against a backbone and work out its factors.

    Raises CannotServe, naming what was asked and what there is, and PlanError for a plan that is none.
    """
    _check(request, backbone)
    check_plan(request.plan, backbone.schedule.T)
    t, s = np.array(list(pairwise(request.plan)), np.int64).T
    factors = _factors(request, backbone.schedule, t, s)
    labels = _labels(request, backbone.manifest.num_classes)
    return Chain(request, backbone, t, factors, labels, bool(factors[:, K_P].any()))


def _factors(request: DenoiseV1, schedule: NoiseSchedule, t: Int64, s: Int64) -> Float32:
    before = np.concatenate(([-1], t[:-1]))
    step = coefficients(schedule, request.sampler, t, s, eta=request.eta, t_prev=before)
    alpha_bar = schedule.alpha_bar[t]
    factors = np.empty((len(t), FACTORS), np.float32)
    factors[:, SIGMA] = np.sqrt(1 - alpha_bar)
    factors[:, INVERSE_ROOT] = 1 / np.sqrt(alpha_bar)
    factors[:, BOUND] = np.inf if request.clip is None else request.clip
    factors[:, K_X], factors[:, K_0], factors[:, K_P], factors[:, K_Z] = (
        step.x,
        step.x0,
        step.x0_prev,
        step.noise,
    )
    return factors


def _labels(request: DenoiseV1, num_classes: int | None) -> npt.NDArray[np.int64] | None:
    if num_classes is None:
        return None
    if request.labels is None:
        return np.full(request.n, num_classes, np.int64)
    return request.labels.astype(np.int64)


def _check(request: DenoiseV1, backbone: Backbone) -> None:
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
    if request.labels is None:
        return
    if manifest.num_classes is None:
        raise CannotServe("unexpected_labels", "labels asked for, this backbone was trained without any")
    if int(request.labels.max()) >= manifest.num_classes:
        raise CannotServe(
            "label_out_of_range",
            f"label {int(request.labels.max())} asked for, there are 0 to {manifest.num_classes - 1}",
        )
