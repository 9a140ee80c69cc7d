"""Encoding and decoding a batch of samples: our guarded codec against bare msgpack-numpy, pickle and safetensors.

What is timed is what a sender and a receiver pay at the border: `encode(message)` and `decode(type, body)`, the latter with every
check of form, limits and values. The rivals check nothing.
"""

import pickle
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgpack
import msgpack_numpy
import numpy as np
import safetensors.numpy
import typer

from benchmarks.report import Result, emit, rate, say
from broker import codec
from broker.contract.samples import SamplesV1

Dtype = Literal["float16", "float32", "int8"]
RoundTrip = Callable[[], object]
KIB = 1024
ITEM_BYTES = {"float16": 2, "float32": 4, "int8": 1}


def batch(dtype: Dtype, size_bytes: int) -> SamplesV1:
    """A batch of normal samples (N, 3, 8, 8) whose array takes about `size_bytes`."""
    count = max(1, size_bytes // (3 * 8 * 8 * ITEM_BYTES[dtype]))
    x = np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)
    return SamplesV1.pack(
        x, schedule_id="0123456789abcdef", t_cut=300, release=0, dtype=dtype, labels=np.arange(count) % 10
    )


def contenders(message: SamplesV1) -> dict[str, RoundTrip]:
    """Name → one encoding and decoding of the same fields; ours is the first."""
    fields = dict(message)
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    texts = {name: str(value) for name, value in fields.items() if not isinstance(value, np.ndarray)}

    def bare() -> object:
        body = msgpack.packb(fields, default=msgpack_numpy.encode)
        return msgpack.unpackb(body, object_hook=msgpack_numpy.decode)

    return {
        "ours": lambda: codec.decode(message.type_name, codec.encode(message)),
        "msgpack-numpy, bare": bare,
        "pickle": lambda: pickle.loads(pickle.dumps(fields, protocol=5)),  # noqa: S301 - our own bytes
        "safetensors": lambda: safetensors.numpy.load(safetensors.numpy.save(arrays, metadata=texts)),
    }


def measure(round_trips: dict[str, RoundTrip], seconds: float) -> dict[str, list[float]]:
    """Round trips a second of each contender, in turns: several values each, over about `seconds`."""
    rates: dict[str, list[float]] = {name: [] for name in round_trips}
    repeats = {name: _repeats(run) for name, run in round_trips.items()}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rates["ours"]) < 5:
        for name, run in round_trips.items():
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            rates[name].append(repeats[name] / (time.perf_counter() - begun))
    return rates


def _repeats(run: RoundTrip, block_seconds: float = 0.02) -> int:
    """How many runs take about `block_seconds`; warms up on the way."""
    times: list[float] = []
    for _ in range(10):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return max(1, round(block_seconds / statistics.median(times)))


def results(dtype: Dtype, size_bytes: int, seconds: float) -> list[Result]:
    """Ours against every rival."""
    size = f"{size_bytes // KIB} KiB" if size_bytes < KIB**2 else f"{size_bytes // KIB**2} MiB"
    say(f"{size} of {dtype}")
    rates: dict[str, Any] = measure(contenders(batch(dtype, size_bytes)), seconds)
    ours = rates.pop("ours")
    bars = {"msgpack-numpy, bare": 0.9} if size_bytes == KIB**2 else {}
    return [
        rate(f"{size} of {dtype}", "round trips/s", ours, name, theirs, bars.get(name))
        for name, theirs in rates.items()
    ]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Round trips through encode and decode, a second."""
    seconds = 1.0 if quick else 8.0
    dtypes: tuple[Dtype, ...] = ("float16", "float32", "int8")
    cases = [(dtype, size) for dtype in dtypes for size in (KIB, 100 * KIB, KIB**2)]
    found = [result for dtype, size in cases for result in results(dtype, size, seconds)]
    emit(
        "codec",
        found,
        as_json=as_json,
        quick=quick,
        msgpack=".".join(map(str, msgpack.version)),
        numpy=np.__version__,
    )


if __name__ == "__main__":
    typer.run(main)
