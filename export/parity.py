"""The gate before every bundle: what the exported network computes, compared with what the trained one computes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from diffusion.network import UNet
from diffusion.schedule import NoiseSchedule
from export.errors import ParityFailed
from export.manifest import NoiseLevelError, ParityFigures

THRESHOLD = 1e-4
BATCH_SIZES = (1, 3, 16)
NOISE_LEVELS = 5
# The largest batch visits every step; the smaller ones this many, spread over the whole range.
_STEPS_AT_SMALL_BATCHES = 48


@dataclass(frozen=True, eq=False)
class _Probe:
    x: NDArray[np.float32]
    t: NDArray[np.int64]
    label: NDArray[np.int64]


def check_parity(
    network: UNet, onnx: bytes, schedule: NoiseSchedule, t_cut: int, threshold: float = THRESHOLD
) -> ParityFigures:
    """Compare onnxruntime (CPU) with torch on noisy inputs over every step the head owns.

    Every `t` in `[1, t_cut]` and every label, "no label" among them, is met at least once, at the batch sizes
    `BATCH_SIZES`. The inputs are x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε with x_0 uniform in [-1, 1], drawn from a fixed seed.

    Args:
        network: the trained head, eps = network(x, t, label).
        onnx: what `export_onnx` made of it.
        schedule: the head's schedule.
        t_cut: last step the head owns.
        threshold: largest absolute difference of ε that passes; ε is of unit variance.

    Raises:
        ParityFailed: a difference over `threshold`, or a value that is not finite.
    """
    session = _session(onnx)
    t_seen, errors = [], []
    for probe in _probes(network, schedule, t_cut):
        difference = np.abs(_run_onnx(session, network, probe) - _run_torch(network, probe))
        t_seen.append(probe.t)
        errors.append(difference.reshape(len(probe.t), -1).max(axis=1))
    t, error = np.concatenate(t_seen), np.concatenate(errors)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    if not error[worst] <= threshold:
        raise ParityFailed(
            f"the exported head differs from the trained one by {error[worst]:.2e} at t={t[worst]} (allowed: "
            f"{threshold:.0e}); no bundle was written, export it again or report the network"
        )
    return ParityFigures(
        threshold=threshold,
        max_abs_error=float(error[worst]),
        mean_abs_error=float(error.mean()),
        batch_sizes=BATCH_SIZES,
        evaluations=len(error),
        noise_levels=_by_noise_level(t, error, t_cut),
        onnxruntime=ort.__version__,
        torch=str(torch.__version__),
    )


def _session(onnx: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's own exceptions share no public root.
        reason = str(error).strip().splitlines()[0]
        raise ParityFailed(
            f"onnxruntime cannot load the exported head: {reason}; no bundle was written"
        ) from error


def _probes(network: UNet, schedule: NoiseSchedule, t_cut: int) -> Iterator[_Probe]:
    generator = np.random.Generator(np.random.PCG64(0))
    config = network.config
    image_shape = (config.in_channels, config.image_size, config.image_size)
    labels = (config.num_classes or 0) + 1
    for batch_size in BATCH_SIZES:
        every_step = batch_size == max(BATCH_SIZES)
        count = max(t_cut, labels) if every_step else min(t_cut, _STEPS_AT_SMALL_BATCHES)
        # Batches of one size only: the count is rounded up, the steps start over.
        count = -(-count // batch_size) * batch_size
        steps = np.linspace(1, t_cut, min(count, t_cut)).round().astype(np.int64)
        t_all = generator.permutation(np.resize(steps, count))
        label_all = np.arange(count, dtype=np.int64) % labels
        for t, label in zip(_split(t_all, batch_size), _split(label_all, batch_size), strict=True):
            alpha_bar = schedule.alpha_bar[t][:, None, None, None]
            x0 = generator.uniform(-1, 1, (batch_size, *image_shape))
            noise = generator.standard_normal(x0.shape)
            x = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * noise
            yield _Probe(x.astype(np.float32), t, label)


def _split(values: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.split(values, len(values) // size)


def _run_onnx(session: ort.InferenceSession, network: UNet, probe: _Probe) -> NDArray[np.float32]:
    feeds = {"x": probe.x, "t": probe.t}
    if network.config.num_classes is not None:
        feeds["label"] = probe.label
    eps: NDArray[np.float32] = session.run(["eps"], feeds)[0]
    return eps


def _run_torch(network: UNet, probe: _Probe) -> NDArray[np.float32]:
    label = torch.from_numpy(probe.label) if network.config.num_classes is not None else None
    with torch.inference_mode():
        eps: NDArray[np.float32] = network(
            torch.from_numpy(probe.x), torch.from_numpy(probe.t), label
        ).numpy()
    return eps


def _by_noise_level(
    t: NDArray[np.int64], error: NDArray[np.floating], t_cut: int
) -> tuple[NoiseLevelError, ...]:
    edges = np.unique(np.linspace(0, t_cut, NOISE_LEVELS + 1).round().astype(int))
    return tuple(
        NoiseLevelError(
            t_first=int(low) + 1,
            t_last=int(high),
            max_abs_error=float(error[(t > low) & (t <= high)].max()),
        )
        for low, high in pairwise(edges)
    )
