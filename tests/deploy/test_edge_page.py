"""The integrator's page speaks of commands, options, settings and files that exist."""

import re
from pathlib import Path

from collafuse.cli import ROOMS
from edge_agent.settings import EdgeSettings
from tests.deploy.test_compose import find_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8").replace("\\\n", " ")
CODE = re.findall(r"`([^`]+)`", PAGE) + re.findall(r"^ {4,}(.*)$", PAGE, re.MULTILINE)


def commands() -> list[list[str]]:
    """Every `collafuse …` in code, as words."""
    found = [re.search(rf"(?:^|\s)collafuse ((?:{'|'.join(ROOMS)}) .+)", line) for line in CODE]
    return [match.group(1).split() for match in found if match]


def test_it_names_only_commands_and_options_that_exist() -> None:
    assert len(commands()) >= 20
    for words in commands():
        command, rest = find_command(words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_every_setting_it_gives_a_value_exists() -> None:
    assigned = {
        match.group(1) for line in CODE for match in re.finditer(r"(?:^|--set )([a-z][a-z0-9_]*) ?= ?", line)
    }

    assert {"pool_images", "epsilon_budget", "windows"} <= assigned
    assert assigned <= set(EdgeSettings.model_fields)


def test_it_names_files_that_exist() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", PAGE))

    assert len(named) >= 4
    for path in named:
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
