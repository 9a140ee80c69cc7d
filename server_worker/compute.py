"""Where the network runs."""

import os
import shutil

import torch

from server_worker.errors import CompilerMissing, DeviceUnavailable


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
