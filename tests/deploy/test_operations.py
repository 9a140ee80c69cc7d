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


def test_every_line_that_enrols_an_agent_of_the_compose_file_again_can_be_given() -> None:
    section = MANUAL.split("**Renewing.**")[1].split("**Revoking.**")[0]
    lines = [line for line in code_of(section) if line.startswith("docker compose ")]
    assert len(lines) == 3
    inner = [inner_command(shlex.split(line)[2:]) for line in lines]
    path = SERVICES["enroll-edge-2"]["environment"]["COLLAFUSE_CREDENTIALS"]
    assert inner == [["rm", path], [], []]
    assert "clinic-b device-1 --renew" in section
    assert SERVICES["enroll-edge-2"]["command"] == ["clinic-b", "device-1"]


def test_the_line_that_upgrades_the_workers_keeps_their_number_and_waits_for_no_job() -> None:
    section = MANUAL.split("## Upgrading")[1].split("\n## ")[0]
    (line,) = [line for line in code_of(section) if line.startswith("docker compose up ")]
    inner_command(shlex.split(line)[2:])
    assert "--scale denoiser=" in line, "without it Compose goes back to one"
    assert "--no-deps" in line, (
        "a job that fails, as while the broker is away, would leave the workers stopped"
    )


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
