"""A runbook as its parts: what is said of an alert, and the commands that it gives."""

import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
PARTS = [
    "What it means",
    "How to see it",
    "How to mend it",
    "How to know that it is mended",
    "What else it may be",
]
PROGRAMS = {"collafuse", "docker", "rabbitmqctl", "openssl"}
"""What a command between backticks begins with; others are names of things."""


@dataclass(frozen=True)
class Runbook:
    """name: the alert's;  text: the whole page;  head: what stands above the first part;  parts: heading to content, in order."""

    name: str
    text: str
    head: str
    parts: dict[str, str]

    @property
    def commands(self) -> list[str]:
        """Every command of the page, in blocks and between backticks."""
        inline = [piece for piece in re.findall(r"`([^`\n]+)`", self.text) if " " in piece]
        return in_blocks(self.text) + [piece for piece in inline if piece.split()[0] in PROGRAMS]


def read(name: str) -> Runbook:
    """The runbook of an alert."""
    text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
    head, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    parts = dict(section.split("\n", 1) for section in rest)
    return Runbook(name, text, head, {heading: content.strip("\n") for heading, content in parts.items()})


def names() -> list[str]:
    """Of every page in the folder of the runbooks, the name without its ending."""
    return sorted(path.stem for path in RUNBOOKS.glob("*.md"))


def in_blocks(text: str) -> list[str]:
    """The commands in the indented blocks: every line of one, or those after `$ ` where a block shows what they print."""
    found: list[str] = []
    for is_block, lines in groupby(text.splitlines(), lambda line: line.startswith("    ")):
        block = [line.strip() for line in lines] if is_block else []
        prompted = [line.removeprefix("$ ") for line in block if line.startswith("$ ")]
        found += prompted or block
    return found


def stages(command: str) -> list[list[str]]:
    """The programs of a pipeline, each as its words."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    pieces: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            pieces.append([])
        else:
            pieces[-1].append(word)
    return pieces
