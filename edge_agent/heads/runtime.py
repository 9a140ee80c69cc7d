"""onnxruntime's own exceptions, which share no public root, said as ours."""

import contextlib
from collections.abc import Iterator

from edge_agent.errors import HeadError


@contextlib.contextmanager
def running(name: str) -> Iterator[None]:
    """One call of a head's network: whatever onnxruntime raises in it is a HeadError of one line.

    name: of the head.
    """
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise HeadError(
            f"{name} failed at its work: {said[0][:200]}; go back to the head before, or export it again"
        ) from error
