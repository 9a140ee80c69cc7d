"""Words for a private node that ran here and runs no more, for who looks for a broker and finds none."""

import shlex
from pathlib import Path

from broker.node.local_node import LocalNode
from broker.settings import NODE_DIRECTORY

_ENDINGS = {"crashed": "has ended without being stopped", "stopped": "was stopped"}


def how_to_find_a_broker(directory: Path, to_name_one: str) -> str:
    """Returns what to do, where none runs in `directory`: start the private node again or for the first time, or name a broker.

    to_name_one: how that is done, as an imperative.

    Raises:
        NodeError: if the directory's record cannot be read.
    """
    ending = _ENDINGS.get(LocalNode(directory).status().state)
    elsewhere = "" if directory == NODE_DIRECTORY else f" --dir {shlex.quote(str(directory))}"
    command = f"`collafuse broker node start{elsewhere}`"
    if ending is None:
        return f"{to_name_one}, or start a private node with {command}"
    return (
        f"the private node in {directory} {ending}: start it again with {command} (what it confirmed is kept),"
        f" or {to_name_one}"
    )
