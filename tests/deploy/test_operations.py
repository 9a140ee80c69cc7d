"""The operator's manual speaks of commands, options, files and services that exist."""

import re
from pathlib import Path

from tests.deploy.test_compose import SERVICES, find_command

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Every `collafuse …` in code, as words."""
    code = re.findall(r"`([^`\n]+)`", MANUAL) + re.findall(r"^ {4,}(.*)$", MANUAL, re.MULTILINE)
    found = [re.search(r"(?:^|\s)collafuse (.+)", line) for line in code]
    return [match.group(1).split() for match in found if match]


def test_the_manual_names_only_commands_and_options_that_exist() -> None:
    assert len(commands()) >= 12
    for words in commands():
        command, rest = find_command(words)
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


def test_the_manual_names_every_service_and_files_that_exist() -> None:
    parts = MANUAL.split("## The parts")[1].split("##")[0]
    for name in SERVICES:
        if not name.startswith("enroll-") and name != "init":
            assert name in parts
    for path in re.findall(r"`((?:deploy|monitoring)/[\w./-]+)`", MANUAL):
        assert (ROOT / path).exists(), path
