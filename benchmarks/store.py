"""The sample store: how fast batches become durable, how soon it is open, and what a draw costs beside an array in memory.

Ingest is measured through `add_many` in groups of 16 messages of 1 MiB, against the same bytes written to a plain file and
fsynced per group on the same disk in turn. Opening and drawing are measured on 100,000 samples of 3×32×32 float16 in 6,250
messages of 16, once as merged segments and once as 6,250 single ones; the rival of a draw is `x[idx].astype(np.float32)` on the
same data in memory.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.report import Result, emit, rate, say
from broker.contract.samples import SamplesV1
from monitoring import logs
from server_worker.samples.batch import Incoming, payload_of
from server_worker.samples.segment import SUFFIX, encode
from server_worker.samples.segments import SEGMENTS_FOLDER
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage

SHAPE = (3, 32, 32)
SAMPLES = 100_000
MESSAGE_SAMPLES = 16
GROUP = 16
MESSAGE_BYTES = 1 << 20
PROMISED_MB_S = 200.0
CLIENTS = 20
BLOCK = 50
MERGED, SINGLE = "merged", "one segment per message"


def message(number: int, samples: int) -> SamplesV1:
    """Normal samples of 3×32×32 as float16, others for each number."""
    x = np.random.default_rng(number).standard_normal((samples, *SHAPE), np.float32)
    return SamplesV1.pack(
        x,
        schedule_id="0123456789abcdef",
        t_cut=300,
        release=0,
        dtype="float16",
        labels=np.arange(samples) % 10,
    )


def incoming(number: int, samples: int) -> Incoming:
    """The batch of that number, as ingest would hand it over."""
    return Incoming(message(number, samples), f"{number:064x}", f"client-{number % CLIENTS}", "device")


def ingest(folder: Path, groups: int, rounds: int) -> list[Result]:
    """MB a second that become durable, ours and the disk's own in turn."""
    say(f"ingest: {rounds} rounds of {groups} groups of {GROUP} MiB")
    count = MESSAGE_BYTES // (2 * int(np.prod(SHAPE)))
    batches = [incoming(number, count) for number in range(GROUP * groups)]
    data = [
        np.concatenate([each.message.x for each in batches[i : i + GROUP]])
        for i in range(0, len(batches), GROUP)
    ]
    size_mb = sum(array.nbytes for array in data) / 1e6
    ours, disk, wanted = [], [], []
    for _ in range(rounds):
        disk.append(size_mb / _seconds(lambda: _write_plain(folder / "plain", data)))
        store = SampleStore(Storage(folder / "ingest"))
        begun = time.perf_counter()
        for first in range(0, len(batches), GROUP):
            store.add_many(batches[first : first + GROUP])
        ours.append(size_mb / (time.perf_counter() - begun))
        wanted.append(min(PROMISED_MB_S, disk[-1]))
        shutil.rmtree(folder / "ingest")
        shutil.rmtree(folder / "plain")
    return [
        rate("ingest of 1 MiB messages", "MB/s", ours, f"{PROMISED_MB_S:.0f} MB/s or the disk", wanted, 1.0),
        rate("ingest of 1 MiB messages", "MB/s", ours, "plain write and fsync", disk, None),
    ]


def _write_plain(folder: Path, data: list[npt.NDArray[np.float16]]) -> None:
    folder.mkdir()
    for number, array in enumerate(data):
        with (folder / str(number)).open("wb") as file:
            file.write(array.data)
            file.flush()
            os.fsync(file.fileno())


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def fill(folder: Path) -> npt.NDArray[np.float16]:
    """Both stores of 100,000 samples below a folder; returns the samples as one array."""
    say(f"filling two stores with {SAMPLES:,} samples")
    merged = SampleStore(Storage(folder / MERGED))
    whole = []
    for first in range(0, SAMPLES // MESSAGE_SAMPLES, 250):
        batches = [incoming(number, MESSAGE_SAMPLES) for number in range(first, first + 250)]
        whole += [each.message.x for each in batches]
        merged.add_many(batches)
        for each in batches:
            _write_alone(folder / SINGLE / SEGMENTS_FOLDER, each)
    merged.compact()
    return np.concatenate(whole)


def _write_alone(folder: Path, batch: Incoming) -> None:
    """What `add` writes of one message, without waiting for the disk 6,250 times."""
    folder.mkdir(parents=True, exist_ok=True)
    segment, parts = encode([payload_of(batch, 0.0)])
    (folder / f"{segment.name}{SUFFIX}").write_bytes(b"".join(parts))


def opening(folder: Path, rounds: int) -> list[Result]:
    """How often a second a store of 100,000 samples could be opened; 1 is promised."""
    say("opening")
    times: dict[str, list[float]] = {MERGED: [], SINGLE: []}
    for _ in range(rounds):
        for name, found in times.items():
            found.append(1 / _seconds(partial(SampleStore, Storage(folder / name))))
    return [
        rate(f"opening {SAMPLES:,} samples, {name}", "a second", found, "one second", [1.0], 1.0)
        for name, found in times.items()
    ]


def drawing(folder: Path, x: npt.NDArray[np.float16], size: int, seconds: float) -> list[Result]:
    """Draws a second of `size` samples, ours and from the array, in turn."""
    say(f"draws of {size}")
    rng = np.random.default_rng(0)
    stores = {name: SampleStore(Storage(folder / name)) for name in (MERGED, SINGLE)}
    draws: dict[str, Callable[[], object]] = {
        name: partial(store.batch, rng, size) for name, store in stores.items()
    }
    draws["array"] = lambda: x[rng.integers(0, len(x), size)].astype(np.float32)
    for store in stores.values():
        for _ in range(40):
            store.batch(rng, 1024)  # opens every segment, and compares the digests
    rates: dict[str, list[float]] = {name: [] for name in draws}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(rates["array"]) < 5:
        for name, draw in draws.items():
            rates[name].append(BLOCK / _seconds(partial(_repeat, draw)))
    rival = "x[idx].astype(np.float32) in memory"
    return [
        rate(f"draws of {size}, merged", "draws/s", rates[MERGED], rival, rates["array"], 0.9),
        rate(f"draws of {size}, {SINGLE}", "draws/s", rates[SINGLE], rival, rates["array"], None),
    ]


def _repeat(draw: Callable[[], object]) -> None:
    for _ in range(BLOCK):
        draw()


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="On the disk to measure; a temporary one if not given.")
    ] = None,
) -> None:
    """Ingest, opening and drawing of the sample store."""
    logs.configure("benchmark", level="warning")
    with tempfile.TemporaryDirectory(prefix="collafuse-bench-", dir=folder) as name:
        place = Path(name)
        found = ingest(place, groups=8 if quick else 32, rounds=5)
        x = fill(place)
        found += opening(place, rounds=5 if quick else 15)
        for size in (64, 256):
            found += drawing(place, x, size, seconds=2.0 if quick else 10.0)
    emit("store", found, as_json=as_json, quick=quick, numpy=np.__version__)


if __name__ == "__main__":
    typer.run(main)
