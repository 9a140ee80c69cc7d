"""Signatures judged in a process of their own: as rightly as in this one, and without what that takes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.heads import distant_key
from edge_agent.heads.distant_key import DistantKey
from edge_agent.storage.state import StateDirectory
from export.bundle.keys import PrivateKey
from tests.conftest import wait_until
from tests.edge_agent.agents import NOWHERE, TELLING, RunAgent
from tests.edge_agent.heads.deliveries import status

OWNER, STRANGER = PrivateKey.generate(), PrivateKey.generate()
MESSAGE = b"a manifest"


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    distant_key._judged.cache_clear()


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


def test_an_agent_takes_a_signed_head_and_does_not_hold_what_judging_it_takes(
    publish: Callable[..., Path],
    run_agent: RunAgent,
    state: StateDirectory,
    tmp_path: Path,
) -> None:
    loaded_file = tmp_path / "loaded"
    agent = run_agent(NOWHERE, "--head", publish(4), code=TELLING, LOADED_FILE=str(loaded_file))

    wait_until(lambda: (status(state)["head"] or {}).get("identity") is not None, "the signed head is in use")
    assert agent.stop() == 0

    assert not agent.events("signature_judged_here")
    loaded = set(json.loads(loaded_file.read_text()))
    assert "onnxruntime" in loaded
    assert not {"cryptography", "torch"} & loaded
