"""The step latency of a head by precision: int8 and fp16 against fp32, under onnxruntime, on one thread of the CPU.

The precisions take turns within one run. Each int8 head is made as `collafuse export head --precision int8` makes it, with its
ranges measured on its own chains; its error against torch stands beside it. The weights are random: they do not change how
long a convolution takes.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.heads import DEMO, SCHEDULE, T_CUT, network
from benchmarks.report import Result, emit, say, spread
from diffusion.network import UNetConfig
from export.bundle.bars import BARS
from export.bundle.gates import Precision
from export.conversion.half_precision import HalfPrecision
from export.conversion.onnx_export import export_onnx
from export.conversion.parity import check_parity
from export.conversion.quantisation import calibration_inputs, quantise, rungs
from export.conversion.running import Exported
from export.conversion.trajectories import Trained
from export.errors import ParityFailed
from export.onnx_runtime import ort

# Promised of a convolution-heavy head: int8 takes at most 0.6 of the time of fp32.
BAR = 1.67
PROFILED_RUNS = 10


@dataclass(frozen=True)
class Case:
    """A head to be timed; bar is what fp32 / int8 has to reach, None for nothing promised."""

    name: str
    config: UNetConfig
    bar: float | None


CASES = (
    Case("convolution-heavy head, 3×16×16", UNetConfig(3, 16, 128, (1, 2), 1, False), BAR),
    Case("demo's head, 1×8×8", DEMO, None),
)


def models(head: Trained) -> dict[Precision, bytes]:
    """The head at every precision; int8 on the first rung that passes the gate of single steps."""
    whole = export_onnx(head.network)
    found: dict[Precision, bytes] = {"fp32": whole, "fp16": export_onnx(HalfPrecision(head.network))}
    inputs = calibration_inputs(head)
    for kept in rungs(whole):
        found["int8"] = quantise(whole, inputs, kept, head.network.config.num_classes is not None)
        try:
            error = check_parity(head, Exported(found["int8"]), BARS["int8"])
        except ParityFailed as refused:
            say(f"int8 with {len(kept)} convolutions in float: {refused}")
            continue
        say(f"int8 with {len(kept)} convolutions in float differs from torch by {error.relative_rms:.3f}")
        return found
    raise ParityFailed("int8 holds this head on no rung; nothing was timed")


def session(model: bytes, profile: Path | None = None) -> ort.InferenceSession:
    """On one thread of the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(config: UNetConfig, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of one call."""
    x = np.random.default_rng(0).standard_normal(
        (batch, config.in_channels, config.image_size, config.image_size)
    )
    given: dict[str, np.ndarray[Any, Any]] = {"x": x.astype(np.float32), "t": np.full(batch, 100, np.int64)}
    return given if config.num_classes is None else given | {"label": np.zeros(batch, np.int64)}


def measure(calls: Mapping[Precision, Callable[[], object]], rounds: int) -> dict[Precision, list[float]]:
    """Milliseconds of single calls, the contenders taking turns, after two calls of each to warm up."""
    for call in (*calls.values(), *calls.values()):
        call()
    times: dict[Precision, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def dearest(model: bytes, given: dict[str, np.ndarray[Any, Any]]) -> str:
    """The kinds of operators that take most of a call, in words."""
    with TemporaryDirectory() as directory:
        profiled = session(model, Path(directory, "profile"))
        for _ in range(PROFILED_RUNS):
            profiled.run(None, given)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    whole = spent.total()
    return ", ".join(f"{name} {100 * duration / whole:.0f} %" for name, duration in spent.most_common(5))


def results(case: Case, batch: int, rounds: int, by_precision: dict[Precision, bytes]) -> list[Result]:
    """Int8 and fp16 against fp32; ratios are fp32's time over theirs."""
    given = feeds(case.config, batch)
    calls = {name: partial(session(model).run, None, given) for name, model in by_precision.items()}
    times = measure(calls, rounds)
    whole = statistics.median(times["fp32"])
    found = []
    rivals: tuple[Precision, ...] = ("int8", "fp16")
    for name in rivals:
        ours = statistics.median(times[name])
        bar = case.bar if name == "int8" else None
        what = f"{case.name}, batch {batch}, {name}"
        found.append(Result(what, "ms a step", ours, "fp32", whole, whole / ours, bar, spread(times[name])))
    say(f"{case.name}, batch {batch}: int8 spends {dearest(by_precision['int8'], given)}")
    return found


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter; within two minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Milliseconds of one network call by precision."""
    torch.set_num_threads(1)
    found = []
    for case in CASES:
        say(f"exporting the {case.name}")
        by_precision = models(Trained(network(case.config), SCHEDULE, T_CUT))
        for batch in (1, 16):
            found += results(case, batch, 15 if quick else 40, by_precision)
    emit(
        "precision",
        found,
        as_json=as_json,
        quick=quick,
        onnxruntime=ort.__version__,
        torch=str(torch.__version__),
        threads="1",
    )


if __name__ == "__main__":
    typer.run(main)
