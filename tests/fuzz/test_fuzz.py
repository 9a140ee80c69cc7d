"""The fuzzer itself: it runs, counts, and finds what is wrong when something is."""

import subprocess
import sys
from pathlib import Path

import pytest

from broker.contract.message import Message
from broker.errors import Refused
from tests.conftest import WAIT_SECONDS
from tests.fuzz.target import TYPES, Check

ROOT = Path(__file__).parents[2]


def test_many_inputs_break_nothing() -> None:
    # By the command: a child's greatest memory begins with its parent's, and this process may have held more than the fuzzer may.
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "20000", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "20,000 inputs: no crash" in done.stdout


def test_a_decoder_that_raises_anything_else_is_found() -> None:
    def broken(type_name: str, body: bytes) -> Message:
        raise IndexError

    with pytest.raises(IndexError):
        Check(broken)(b"\x00abc")


def test_a_decoder_that_runs_code_is_found() -> None:
    script = (
        "import os, sys; from tests.fuzz.target import Check; check = Check(lambda *_: os.system('true'));"
        "sys.addaudithook(check.forbid); check(b'abc')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=WAIT_SECONDS,
    )

    assert done.returncode == 1
    assert "decoding did os.system" in done.stderr


def test_a_decoder_that_holds_too_much_is_found() -> None:
    def hungry(type_name: str, body: bytes) -> Message:
        held = bytearray(4 * 2**20)
        raise Refused("too_much", f"{len(held)}")

    with pytest.raises(AssertionError, match="bytes for 3"):
        Check(hungry, measured_every=1)(b"\x00abc")


@pytest.mark.parametrize("lists", [78, 1000, 5000])
@pytest.mark.parametrize("claimed", [16, 200, 1025])
def test_lists_in_lists_that_claim_to_be_long_stay_within_the_limit(lists: int, claimed: int) -> None:
    body = b"\x81\xa1a" + (b"\xdc" + claimed.to_bytes(2, "big")) * lists

    Check(measured_every=1)(bytes([TYPES.index("samples.v1")]) + body)
