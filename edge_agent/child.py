"""Processes of our own that an agent begins."""

import sys


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a process that runs one of our modules, and nothing that lies about in the working directory.

    It is as isolated as this process, and PYTHONPATH means the same to both.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module, *arguments]
