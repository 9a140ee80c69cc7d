"""Where a head runs: what was asked for, or, where the settings allow it and loudly, the CPU instead."""

from collections.abc import Sequence
from typing import Literal

from edge_agent.errors import ProviderMissing

Provider = Literal["auto", "cuda", "cpu"]
Fallback = Literal["error", "cpu"]

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def choose_provider(asked: Provider, available: Sequence[str]) -> str:
    """The onnxruntime provider that serves `asked`.

    Raises:
        ProviderMissing: "cuda" is asked for and onnxruntime has no CUDA.
    """
    if asked == "cpu":
        return CPU
    if CUDA in available:
        return CUDA
    if asked == "auto":
        return CPU
    raise ProviderMissing(
        f"{CUDA} is not available, only {', '.join(available)}; install the extra edge-gpu in place of edge, "
        "use --provider cpu, or allow --provider-fallback cpu"
    )


def check_provider(chosen: str, running: Sequence[str]) -> None:
    """Assert that the session runs where it was told to.

    onnxruntime falls back to the CPU with no more than a warning, when CUDA is built in but its libraries or the
    device are missing.

    Raises:
        ProviderMissing: it runs elsewhere.
    """
    if not running or running[0] != chosen:
        raise ProviderMissing(
            f"{chosen} was chosen, but onnxruntime runs the head on {running[0] if running else 'nothing'}; "
            "repair the CUDA installation, use --provider cpu, or allow --provider-fallback cpu"
        )
