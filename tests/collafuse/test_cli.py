"""The command: rooms load only when they are called, and failures are one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collafuse.cli import ROOMS
from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnxruntime", "sklearn", "scipy", "onnx")


def collafuse(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "collafuse", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_helps_without_loading_anything_heavy(room: str) -> None:
    program = (
        "import sys\n"
        f"sys.argv = ['collafuse', {room!r}, '--help']\n"
        "from collafuse.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", "these were loaded to print a help text"


def test_an_unknown_command_is_one_clear_failure(tmp_path: Path) -> None:
    done = collafuse("teleport", cwd=tmp_path)
    assert done.returncode != 0
    assert "teleport" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("worker", "train", "--config", "nowhere.toml"), ("nowhere.toml",)),
        (("worker", "denoise", "--config", "unknown.toml"), ("unknown.toml", "max_batsch", "max_batch")),
        (("edge", "run"), ("no broker", "COLLAFUSE_BROKER_URL")),
        (("edge", "contribute", "absent", "--config", "device.toml"), ("absent",)),
        (("export", "inspect", "broken.bundle"), ("broken.bundle",)),
        (("export", "head", "broken.bundle", "--out", "x"), ("broken.bundle",)),
        (("plan", "--devices", "0", "--images-per-day", "20"), ("--devices",)),
        (("backup", "check", "absent"), ("absent",)),
        (
            ("backup", "create", "copy", "--storage", "absent", "--without-definitions"),
            ("absent", "--storage"),
        ),
        (("backup", "restore", "absent", "--without-definitions"), ("absent",)),
        (("broker", "init", "--url", "amqp://u:hidden@127.0.0.1:1/v"), ("127.0.0.1:1",)),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "unknown.toml").write_text("max_batsch = 4\n")
    (tmp_path / "device.toml").write_text('client = "a"\ndevice = "b"\n')
    (tmp_path / "broken.bundle").write_bytes(b"not a bundle")

    done = collafuse(*arguments, cwd=tmp_path)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_an_interrupted_command_says_so_in_one_line(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, typer\n"
        # Whoever runs the tests in the background has them ignore the keyboard.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from collafuse import cli\n"
        "class Room:\n    app = typer.Typer()\n"
        "@Room.app.command()\ndef wait() -> None:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.modules['room'] = Room\n"
        "cli.ROOMS['wait'] = 'room'\n"
        "sys.argv = ['collafuse', 'wait']\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
