"""Where the network runs."""

import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Raise CompilerMissing where torch.compile would fail: it builds C++ code against Python's headers, for a GPU too."""
    compiler = os.environ.get("CXX") or "g++"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    missing = [
        str(what)
        for what, found in ((compiler, shutil.which(compiler)), (header, header.exists()))
        if not found
    ]
    if missing:
        raise CompilerMissing(
            f"--compile needs {' and '.join(missing)}: install a C++ compiler and Python's headers (apt-get install g++ "
            "python3-dev), or leave --compile out"
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
