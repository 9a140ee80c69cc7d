"""A job's pictures on disk: written beside their place and moved there in one step, so they are whole or absent."""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import JobFailed, SpoolFull, StateError
from edge_agent.storage.state import StateDirectory
from export.files import flush_directory

STEPS_MAX_BYTES = 64 * 2**20
"""Steps of a job beyond that are not kept: they are for looking at, and a thousand large images nobody looks at one by one."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_BLOCK_BYTES = 4096
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def save(
    state: StateDirectory,
    job_id: str,
    images: NDArray[np.float32],
    latents: NDArray[np.float32] | None,
    *,
    steps: NDArray[np.uint8] | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write a job's pictures and return their folder.

    Args:
        state: where to.
        job_id: whose they are; what was there for it is replaced.
        images: (N, C, H, W) float32 in [-1, 1], as `images.npy` and, for 1, 3 or 4 channels, as 00000.png and so on.
        latents: the same samples at the cut, as `latents.npy`, so that both can be shown side by side; or None.
        steps: (N, S+1, ...) uint8, the pixels on the way from one to the other, as `steps.npy`; or None.
        facts: how they were made, as `job.json`; or None.

    Raises:
        SpoolFull: the disk has no room now; nothing is left behind.
        JobFailed: `disk_error`; nothing is left behind.
    """
    folder = state.results(job_id)
    draft = folder.with_name(f".{job_id}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, values in (("images", images), ("latents", latents), ("steps", steps)):
            if values is not None:
                with _durable(draft / f"{name}.npy") as file:
                    np.save(file, values, allow_pickle=False)
        if facts is not None:
            with _durable(draft / "job.json") as file:
                file.write(json.dumps(facts).encode())
        for index, image in enumerate(images):
            _write_picture(draft / f"{index:05d}.png", image)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
        flush_directory(folder.parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        if error.errno in _FULL:
            raise _full(folder) from error
        raise JobFailed(
            "disk_error",
            f"the pictures could not be written to {folder}: {error.strerror}; check the disk and ask again",
        ) from error
    return folder


def check_room(state: StateDirectory, job_id: str, shape: tuple[int, ...], places: int) -> None:
    """Raise SpoolFull when a job's pictures would find no room, so that nothing is computed to be thrown away.

    shape: (N, C, H, W) of the images.  places: of the plan whose steps are kept with them, where these are not too many.
    """
    folder = state.results(job_id)
    values = math.prod(shape)
    steps_bytes = values * places
    needed_bytes = 2 * 4 * values + (steps_bytes if steps_bytes <= STEPS_MAX_BYTES else 0)
    needed_bytes += values + _BLOCK_BYTES * shape[0]  # the pictures
    try:
        free_bytes = shutil.disk_usage(folder.parent).free
    except OSError:
        return  # whatever is wrong will be said when they are written
    if free_bytes < needed_bytes:
        raise _full(folder)


def _full(folder: Path) -> SpoolFull:
    return SpoolFull(
        f"the disk is full: the pictures cannot be written to {folder}; the job waits: free some space"
    )


def discard(state: StateDirectory, job_id: str) -> None:
    """Remove the pictures of a job that ended without them."""
    shutil.rmtree(state.results(job_id), ignore_errors=True)


def prepare(destination: Path) -> None:
    """Make the folder that a job's files are to be copied into. Raises StateError when nothing could be written there."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination):
            pass
    except OSError as error:
        raise StateError(
            f"the pictures cannot be copied to {destination}: {error.strerror}; choose another folder with --out"
        ) from error


def export(folder: Path, destination: Path) -> list[Path]:
    """Copy a finished job's files into `destination`; returns the pictures there, in order.

    Raises StateError when that is not possible.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, destination / file.name)
        return sorted(destination / file.name for file in folder.glob("*.png"))
    except OSError as error:
        raise StateError(
            f"the pictures could not be copied to {destination}: {error.strerror}; they are in {folder}"
        ) from error


def as_pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(C, H, W) floats in [-1, 1] as uint8, (H, W) for one channel, else (H, W, C)."""
    values = np.clip(np.rint((image.astype(np.float64) + 1.0) * 127.5), 0, 255).astype(np.uint8)
    return values[0] if values.shape[0] == 1 else values.transpose(1, 2, 0)


def room_for_steps(places: int, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """An empty (N, S+1, ...) uint8 array for the pixels of N images at every place of a plan, or None when they are too many.

    places: S+1, the places of the plan.  shape: (N, C, H, W) of the images.
    """
    count, channels, height, width = shape
    pixels = (height, width) if channels == 1 else (height, width, channels)
    if count * places * channels * height * width > STEPS_MAX_BYTES:
        return None
    return np.zeros((count, places, *pixels), np.uint8)


@contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into; it is on the disk when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_picture(path: Path, image: NDArray[np.float32]) -> None:
    if image.shape[0] not in _MODES:
        return  # no picture format has two or five channels; images.npy has them
    # Two megabytes that an agent without a picture to draw does not need.
    from PIL import Image as PillowImage  # noqa: PLC0415

    with _durable(path) as file:
        PillowImage.fromarray(np.ascontiguousarray(as_pixels(image))).save(file, format="PNG")
