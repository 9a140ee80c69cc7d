"""Runs experiments: first every network that any of them needs, side by side, then the measuring; nothing is done twice.

All that was finished stays in the folder of the evaluation under names that say what it depends on, so the same command goes
on where it was stopped, and another budget or other data never meets old results.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from evaluation.errors import DataError, RunError
from evaluation.metrics.sets import LEAST_SIZE, features_of
from evaluation.reporting.outcome import Outcome, read_outcome, to_json
from evaluation.running.federation import Federation
from evaluation.running.fitting import unet_config
from evaluation.running.suites import ASKED_IN_WORDS, suite
from evaluation.running.trainings import Training, name_of
from evaluation.running.workbench import Setting, Workbench

REVISION = 3
"""Raised whenever an experiment changes what it measures, so that kept outcomes of before are not taken for new ones."""
TRAINING, MEASURING = "training", "measuring"
LEAST_PIXELS, MOST_AT_BOTTOM = 4, 32
"""Of an image's side; and of what is left of it where a network halves it no further."""


@dataclass(frozen=True)
class Part:
    """How far one part of the work is.

    kind: TRAINING or MEASURING;  name: in words;  done, of: updates of a training, parts of a measuring;  key: tells it from
    others of that name, such as the same training with another seed.
    """

    kind: str
    name: str
    done: int
    of: int
    note: str = ""
    key: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What was run, and what came of it.

    fingerprint: of the data;  extractor_name: in whose features images were compared;  networks: how many the experiments
    rest on, trained in this run or before;  seconds: of this run.
    """

    setting: Setting
    outcomes: tuple[Outcome, ...]
    fingerprint: str
    extractor_name: str
    networks: int
    seconds: float


def evaluate(
    setting: Setting, names: Sequence[str], *, workers: int, on_part: Callable[[Part], None]
) -> Evaluation:
    """Runs the experiments of these names, in their order.

    workers: processes side by side, one core each.  on_part: told of every progress, from a thread of its own.

    Raises:
        RunError: a folder that cannot be written to, or a process that was killed.
        SummaryError: an outcome of before that cannot be read.
        EvaluationError: data or a budget from which an experiment cannot be made.
    """
    started = time.monotonic()
    _check_folder(setting.folder)
    bench = Workbench(setting)
    check_sizes(bench.federation)
    wanted = {name_of(t, bench.federation): t for name in names for t in suite(name).trainings(bench)}
    missing = [training for training in wanted.values() if not bench.networks.has(training)]
    for key, training in wanted.items():
        of = training.total_updates
        on_part(Part(TRAINING, training.title, 0 if training in missing else of, of, key=key))
    # Trained now if it must be, so that no two processes do; and tried, so that one that cannot take the images is found out.
    features_of(bench.extractor, bench.federation.pooled.take(np.arange(2 * LEAST_SIZE)))
    places = {name: _place(setting, bench, name) for name in names}
    kept = {name: read_outcome(place) for name, place in places.items() if place.exists()}
    unmeasured = [name for name in names if name not in kept]
    with _pool(setting, workers, on_part) as pool:
        # The longest first, so that no process is left alone with it at the end.
        _finish(pool.submit(_train, t) for t in sorted(missing, key=lambda t: -t.total_updates))
        _finish(pool.submit(_measure, name, places[name]) for name in unmeasured)
    outcomes = tuple(kept.get(name) or read_outcome(places[name]) for name in names)
    return Evaluation(
        setting,
        outcomes,
        bench.federation.fingerprint,
        bench.extractor.name,
        len(wanted),
        time.monotonic() - started,
    )


def _check_folder(folder: Path) -> None:
    """Finds out now, and not after hours, whether anything can be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for inner in ("networks", "outcomes"):
            (folder / inner).mkdir(exist_ok=True)
            with TemporaryFile(dir=folder / inner) as file:
                file.write(b"x")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error


def check_sizes(federation: Federation) -> None:
    """Raises DataError, before anything is trained, when images are of a shape that no network here takes, or too few.

    Real images are compared with real ones in two halves, of training and of held-out images alike.
    """
    _check_shape(federation)
    for client in federation.clients:
        few = min(len(client.train), len(client.held_out))
        if few < 2 * LEAST_SIZE:
            raise DataError(
                f"client {client.name} of {federation.name} has {len(client.train)} images to train on and "
                f"{len(client.held_out)} held out, too few to measure: {2 * LEAST_SIZE} of each are needed; "
                "give more images (a larger --limit) or fewer --clients"
            )


def _check_shape(federation: Federation) -> None:
    channels, height, width = federation.shape
    if channels not in {1, 3}:
        raise DataError(
            f"images of {federation.name} have {channels} channels, and only grey and colour can be shown: give 1 or 3"
        )
    # Networks are for squares, and attend to every pixel that is left at their bottom.
    halved = height >> (len(unet_config(federation.shape, 8, None).channel_multipliers) - 1)
    if height != width or height < LEAST_PIXELS or halved > MOST_AT_BOTTOM:
        fitting = max(8, min(height, width) // 8 * 8)
        raise DataError(
            f"images of {federation.name} have {width}×{height} pixels, which the networks cannot take: "
            f"give --image-size, such as {fitting}"
        )


def _place(setting: Setting, bench: Workbench, name: str) -> Path:
    """Where the outcome of an experiment is kept, named by what it depends on."""
    encoder = setting.text_encoder
    by_words = {"prompts": setting.prompts, "text_encoder": None if encoder is None else encoder.digest}
    described = {
        "revision": REVISION,
        "design": setting.design.to_dict(),
        "plan": asdict(setting.plan),
        "data": bench.federation.fingerprint,
        "extractor": None if setting.extractor is None else _digest_of_file(setting.extractor),
    } | (by_words if name in ASKED_IN_WORDS else {})
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    return setting.folder / "outcomes" / f"{name}-{digest}.json"


def _digest_of_file(path: Path) -> str:
    """Of what is in it: weights that were replaced under the same name are others."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _pool(setting: Setting, workers: int, on_part: Callable[[Part], None]) -> Iterator[ProcessPoolExecutor]:
    """Processes that each open the data once; ended at once when this one is interrupted."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    parts: Queue[Part | None] = context.Queue()
    given_up = threading.Event()
    listener = threading.Thread(target=_listen, args=(parts, on_part, given_up), daemon=True)
    listener.start()
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, context, _begin, (setting, parts, threads))
    try:
        yield pool
        pool.shutdown()
        parts.put(None)
        listener.join()
    except BaseException:
        # A child that ends in the middle of telling its progress keeps the lock of the queue: nothing waits for that any more.
        given_up.set()
        parts.cancel_join_thread()
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def _listen(parts: "Queue[Part | None]", on_part: Callable[[Part], None], given_up: threading.Event) -> None:
    while (part := parts.get()) is not None and not given_up.is_set():
        on_part(part)


def _finish(tasks: Iterator["Future[None]"]) -> None:
    """Waits for all; the first that failed is the failure of the evaluation."""
    try:
        with _undisturbed():
            begun = list(tasks)
        for task in as_completed(begun):
            task.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the evaluation was killed (out of memory?): what was finished is kept, run the same command again, "
            "with fewer --jobs if it was memory"
        ) from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """While processes are started, neither they nor this one are interrupted half-way.

    They never hear the keyboard: the parent alone does, and ends its children. Left to themselves until `_begin`, they would
    hear it while they import, and each would print what it was importing. And this one hears of its end when they have been
    given all that they need: one that was cut off from its parent in the middle would print what it lacked.
    """
    asked: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in asked:
        signal.raise_signal(number)


def interrupt_once(number: int, _: FrameType | None) -> None:
    """A handler that ends everything as the keyboard does, and hears no second signal while it ends.

    coreutils' `timeout` sends two: one to the process and one to its group.  Raises KeyboardInterrupt.
    """
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


_here: dict[str, Any] = {}
"""What a child keeps between its tasks: the workbench, and the queue to tell of progress."""


def _begin(setting: Setting, parts: "Queue[Part | None]", threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    _here.update(bench=Workbench(setting), parts=parts)


def _end_with_parent() -> None:
    """A parent that was killed outright can end nobody: its children see that it is gone, and do not train on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train(training: Training) -> None:
    key = name_of(training, _here["bench"].federation)

    def tell(done: int, of: int, loss: float) -> None:
        _here["parts"].put(Part(TRAINING, training.title, done, of, f"loss {loss:.3f}", key))

    _here["bench"].networks.trained(training, tell)


def _measure(name: str, place: Path) -> None:
    chosen = suite(name)

    def progress(done: int, of: int, words: str) -> None:
        _here["parts"].put(Part(MEASURING, chosen.TITLE, done, of, words))

    started = time.monotonic()
    outcome = replace(chosen.measure(_here["bench"], progress), seconds=time.monotonic() - started)
    draft = place.with_suffix(f".{os.getpid()}.new")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(to_json(outcome), encoding="utf-8")
        draft.replace(place)
    except OSError as error:
        with suppress(OSError):  # on a full disk every byte counts
            draft.unlink()
        raise RunError(
            f"cannot keep an outcome in {place.parent}: {error.strerror}; choose another --out"
        ) from error
    progress(1, 1, "done")
