"""Signatures judged in a process of their own: as rightly as in this one, and without what that takes."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.heads import distant_key
from edge_agent.heads.distant_key import DistantKey
from edge_agent.storage.state import StateDirectory
from export.bundle.keys import KeyHistory, PrivateKey
from export.signing.signing import sign_file
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.agents import NOWHERE, TELLING, RunAgent
from tests.edge_agent.heads.deliveries import status
from tests.edge_agent.heads.test_keys import SECOND, listed

OWNER, STRANGER = PrivateKey.generate(), PrivateKey.generate()
MESSAGE = b"a manifest"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an agent that has judged nothing yet, and does not have the library loaded."""
    monkeypatch.setattr(distant_key, "_verdicts", {})
    monkeypatch.delitem(sys.modules, distant_key._LIBRARY, raising=False)


def made(key: PrivateKey, message: bytes) -> bytes:
    return bytes.fromhex(key.sign(b"", message).signature)


@pytest.mark.parametrize("program", [sys.executable, "/bin/true", "/bin/false", "/nowhere/python"])
def test_only_the_owners_own_signature_is_good_whatever_becomes_of_the_process(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    key, signature = DistantKey(OWNER.public.raw), made(OWNER, MESSAGE)

    assert key.vouches(signature, MESSAGE)
    assert not key.vouches(signature, MESSAGE + b"!")
    assert not key.vouches(bytes([signature[0] ^ 1]) + signature[1:], MESSAGE)
    assert not key.vouches(made(STRANGER, MESSAGE), MESSAGE)
    assert not DistantKey(STRANGER.public.raw).vouches(signature, MESSAGE)


def test_a_process_is_asked_once_for_each_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    key, signature = DistantKey(OWNER.public.raw), made(OWNER, MESSAGE)
    assert key.vouches(signature, MESSAGE)

    def no_more(*_arguments: object, **_options: object) -> None:
        raise AssertionError("another process was begun")

    monkeypatch.setattr(subprocess, "run", no_more)
    assert key.vouches(signature, MESSAGE)


def test_a_process_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hangs = tmp_path / "hangs"
    hangs.write_text(f"#!/bin/sh\necho >> {begun}\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hangs))
    monkeypatch.setattr(distant_key, "_LIMIT_SECONDS", 0.5)
    key = DistantKey(OWNER.public.raw)

    verdicts = [key.vouches(made(OWNER, message), message) for message in (b"one", b"two", b"three")]

    assert verdicts == [True, True, True]
    assert begun.read_text() == "\n"


def test_what_was_judged_is_remembered_by_its_digest_and_not_without_end() -> None:
    importlib.import_module(distant_key._LIBRARY)  # so that it is judged here, and fast
    key = DistantKey(OWNER.public.raw)

    for number in range(3 * distant_key._REMEMBERED):
        assert not key.vouches(bytes(64), bytes(1000) + number.to_bytes(4, "big"))

    assert len(distant_key._verdicts) == distant_key._REMEMBERED
    assert {len(asked) for asked in distant_key._verdicts} == {32}


@pytest.mark.parametrize("lying", ["structlog.py", "edge_agent/heads/distant_key.py"])
@pytest.mark.parametrize("parent", [(), ("-I",)], ids=["plain", "isolated"])
def test_what_lies_about_in_the_working_directory_judges_nothing(
    tmp_path: Path, lying: str, parent: tuple[str, ...]
) -> None:
    liar = tmp_path / lying
    liar.parent.mkdir(parents=True, exist_ok=True)
    liar.write_text(f"import sys; sys.exit({distant_key.GOOD})")
    ask = (
        "import sys; from edge_agent.heads.distant_key import DistantKey;"
        " sys.exit(DistantKey(bytes(range(32))).vouches(bytes(64), b'forged'))"
    )

    # -P as for the program's own command, which is not looked for in the working directory either.
    asked = subprocess.run(
        [sys.executable, *(parent or ("-P",)), "-c", ask],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path if parent else ROOT)},
        check=False,
        timeout=WAIT_SECONDS,
    )

    assert asked.returncode == 0


def test_an_agent_takes_a_signed_head_and_does_not_hold_what_judging_it_takes(
    publish: Callable[..., Path],
    key: PrivateKey,
    run_agent: RunAgent,
    state: StateDirectory,
    tmp_path: Path,
) -> None:
    loaded_file = tmp_path / "loaded"
    head = publish(4, key=SECOND)
    sign_file(head, SECOND, KeyHistory(lists=(listed(1, SECOND, key),)))
    agent = run_agent(NOWHERE, "--head", head, code=TELLING, LOADED_FILE=str(loaded_file))

    wait_until(lambda: (status(state)["head"] or {}).get("identity") is not None, "the signed head is in use")
    assert agent.stop() == 0

    assert not agent.events("signature_judged_here")
    loaded = set(json.loads(loaded_file.read_text()))
    assert "onnxruntime" in loaded
    assert not {"cryptography", "torch"} & loaded
