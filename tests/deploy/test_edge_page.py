"""The integrator's page speaks of commands, options, settings and files that exist."""

import re
from pathlib import Path

from edge_agent.settings import EdgeSettings
from tests.deploy.commands import code_of, commands_of, unknown_options

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")


def test_it_names_only_commands_and_options_that_exist() -> None:
    assert len(commands_of(PAGE)) >= 20
    for words in commands_of(PAGE):
        assert not unknown_options(words), words


def test_every_setting_it_gives_a_value_exists() -> None:
    assigned = {
        match.group(1)
        for line in code_of(PAGE)
        for match in re.finditer(r"(?:^|--set )([a-z][a-z0-9_]*) ?= ?", line)
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
