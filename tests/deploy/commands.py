"""Command lines that files and pages speak of, held against the commands that there are."""

import importlib
import re
from typing import Any

import typer.main

from collafuse.cli import ROOMS


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words left over."""
    command: Any = typer.main.get_command(importlib.import_module(ROOMS[words[0]]).app)
    rest = words[1:]
    # A group that does something by itself may be followed by options of its own.
    while hasattr(command, "commands") and not (command.invoke_without_command and rest[0].startswith("-")):
        command = command.commands[rest[0]]
        rest = rest[1:]
    return command, rest


def unknown_options(words: list[str]) -> set[str]:
    """Options on a command line that its command does not have."""
    command, rest = find_command(words)
    known = {option for parameter in command.params for option in parameter.opts}
    return {word for word in rest if word.startswith("--")} - known


def code_of(page: str) -> list[str]:
    """What a page has between backticks, and each line of its blocks; a command over several lines is one."""
    whole = page.replace("\\\n", " ")
    return re.findall(r"`([^`\n]+)`", whole) + re.findall(r"^ {4,}(.*)$", whole, re.MULTILINE)


def commands_of(page: str) -> list[list[str]]:
    """Every `collafuse …` in a page's code, as words."""
    called = re.compile(rf"(?:^|\s)collafuse ((?:{'|'.join(ROOMS)}) .+)")
    return [match.group(1).split() for line in code_of(page) if (match := called.search(line))]


def complaint(words: list[str]) -> str | None:
    """What the command line says of these words (those after `collafuse`); None if it would take them."""
    command, rest = find_command(words)
    try:
        command.make_context("collafuse", list(rest)).close()
    except typer.TyperException as error:
        return error.format_message()
    return None
