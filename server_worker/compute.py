"""Where the network runs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from server_worker.errors import CompilerMissing, DeviceUnavailable, NoMemory


def choose_device(wish: str, threads: int | None) -> torch.device:
    """The device to compute on; also sets the number of CPU threads of this process.

    wish: "cpu", "cuda", or "auto" for a GPU when there is one.
    Raises DeviceUnavailable when a GPU is asked for and none can be used.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if wish == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "no CUDA device can be used (is it there, and is this torch built for it?): use --device cpu or auto"
        )
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def check_compiler() -> None:
    """Raise CompilerMissing where torch.compile would find none; it needs one for its C++ code and for its GPU launchers."""
    wanted = os.environ.get("CXX") or "g++"
    if shutil.which(wanted) is None:
        raise CompilerMissing(
            f"--compile needs the C++ compiler {wanted}, which is not there: install it (apt-get install g++), or leave "
            "--compile out"
        )


@contextmanager
def memory_as_error(batch_size: int) -> Iterator[None]:
    """Around a training step on so many samples: says in one line when the GPU has no room for them (NoMemory)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoMemory(
            f"the GPU has no memory for a step on {batch_size} samples: lower --batch-size, or see what "
            f"else runs on it ({str(error).splitlines()[0]})"
        ) from error
