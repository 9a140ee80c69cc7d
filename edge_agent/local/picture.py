"""Pictures of a finished job, out of the files in its folder: at the cut, finished, and step by step."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import StateError
from edge_agent.generation import results
from edge_agent.local.problem import Problem

MAX_FRAMES = 64
"""Pictures in a film strip at most; of more steps, as many are shown, evenly spread, the first and the last among them."""

_CHANNELS = (1, 3, 4)


def names(folder: Path) -> frozenset[str]:
    """The files of a job's results; none when there is no folder."""
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except OSError:
        return frozenset()


def frames(folder: Path) -> int | None:
    """Pictures in the film strip of each image, None when there is none."""
    path = folder / "steps.npy"
    if not path.exists():
        return None
    steps = _open(path)
    return min(steps.shape[1], MAX_FRAMES) if _is_film(steps) else None


def finished(folder: Path, index: int) -> bytes:
    """The PNG of a finished image. Raises Problem 404 when there is none."""
    try:
        return (folder / f"{index:05d}.png").read_bytes()
    except FileNotFoundError:
        raise _absent("has no such image") from None
    except OSError as error:
        raise _unreadable(folder, error) from error


def at_cut(folder: Path, index: int) -> bytes:
    """A PNG of the image as it was when the head began, values beyond [-1, 1] clipped. Raises Problem 404 when there is none."""
    latents = _open(folder / "latents.npy")
    if index >= latents.shape[0] or latents.ndim != 4 or latents.shape[1] not in _CHANNELS:
        raise _absent("has no such image at the cut")
    return _png(results.as_pixels(np.asarray(latents[index], np.float32)))


def film(folder: Path, index: int) -> bytes:
    """A PNG with the image after each step of the head side by side, the cut first. Raises Problem 404 when there is none."""
    steps = _open(folder / "steps.npy")
    if not _is_film(steps) or index >= steps.shape[0]:
        raise _absent("was made without keeping its steps")
    wanted = min(steps.shape[1], MAX_FRAMES)
    chosen = np.rint(np.linspace(0, steps.shape[1] - 1, wanted)).astype(int)
    return _png(np.concatenate([np.asarray(steps[index, number]) for number in chosen], axis=1))


def _is_film(steps: NDArray[Any]) -> bool:
    """(N, S+1, H, W) or (N, S+1, H, W, C) uint8."""
    return steps.dtype == np.uint8 and (steps.ndim == 4 or (steps.ndim == 5 and steps.shape[4] in _CHANNELS))


def _open(path: Path) -> NDArray[Any]:
    """Map an array, so that only what is looked at is read."""
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _absent(f"has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return values


def _png(pixels: NDArray[np.uint8]) -> bytes:
    # Two megabytes that an agent without a picture to draw does not need.
    from PIL import Image as PillowImage  # noqa: PLC0415

    shown = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    content = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(shown)).save(content, format="PNG")
    return content.getvalue()


def _absent(what: str) -> Problem:
    return Problem(404, "no_such_picture", f"this job {what}; it may have been removed to make room")


def _unreadable(path: Path, error: Exception) -> StateError:
    return StateError(f"{path} cannot be read ({error}): make the images again")
