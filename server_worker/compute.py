"""Where the network runs."""

import torch

from server_worker.errors import DeviceUnavailable


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
