"""The operator's manual speaks of commands, options, files and services that exist."""

import re
import shlex
from pathlib import Path

from tests.deploy.commands import code_of, commands_of, complaint, unknown_options
from tests.deploy.compose_lines import inner_command
from tests.deploy.composition import JOBS, SERVICES

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_manual_names_only_commands_and_options_that_exist() -> None:
    assert len(commands_of(MANUAL)) >= 12
    for words in commands_of(MANUAL):
        assert not unknown_options(words), words


def test_every_line_by_which_the_system_is_installed_can_be_given() -> None:
    section = MANUAL.split("## Installing with Compose")[1].split("\n## ")[0]
    lines = [line for line in code_of(section) if line.startswith("docker compose ")]
    assert len(lines) >= 7
    for line in lines:
        inner = inner_command(shlex.split(line)[2:])
        assert not inner or complaint(inner[1:]) is None, line


def test_every_line_that_makes_a_backup_in_compose_or_brings_it_back_can_be_given() -> None:
    section = MANUAL.split("## Backup and recovery")[1].split("\n## ")[0]
    lines = [line for line in code_of(section) if line.startswith("docker compose run ")]
    assert len([line for line in lines if " create " in line]) == 2
    assert len([line for line in lines if " restore " in line]) == 2
    for line in lines:
        inner = inner_command(shlex.split(line)[2:])
        assert inner
        assert complaint(inner[1:]) is None, line


def test_the_manual_names_every_service_and_files_that_exist() -> None:
    parts = MANUAL.split("## The parts")[1].split("##")[0]
    for name in set(SERVICES) - JOBS:
        assert name in parts
    for path in re.findall(r"`((?:deploy|monitoring)/[\w./-]+)`", MANUAL):
        assert (ROOT / path).exists(), path
