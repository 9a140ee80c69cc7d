"""The operator's manual speaks of commands, options, files and services that exist."""

import re
from pathlib import Path

from tests.deploy.commands import commands_of, unknown_options
from tests.deploy.test_compose import SERVICES

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_manual_names_only_commands_and_options_that_exist() -> None:
    assert len(commands_of(MANUAL)) >= 12
    for words in commands_of(MANUAL):
        assert not unknown_options(words), words


def test_the_manual_names_every_service_and_files_that_exist() -> None:
    parts = MANUAL.split("## The parts")[1].split("##")[0]
    for name in SERVICES:
        if not name.startswith("enroll-") and name != "init":
            assert name in parts
    for path in re.findall(r"`((?:deploy|monitoring)/[\w./-]+)`", MANUAL):
        assert (ROOT / path).exists(), path
