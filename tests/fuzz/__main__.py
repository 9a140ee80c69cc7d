"""`python -m tests.fuzz`: throw inputs at the decoder until one breaks it, or so many have not."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from broker.codec import encode
from tests.broker import examples
from tests.fuzz.target import TYPES

MEMORY_MEGABYTES = 768
SINGLE_ALLOCATION_MEGABYTES = 64
HANG_SECONDS = 15


def write_corpus(directory: Path) -> None:
    """What the inputs are made from: a valid body of every kind, under its own type and under every other."""
    directory.mkdir()
    for index in range(len(TYPES)):
        for number, message in enumerate(examples.one_of_each()):
            (directory / f"{index}-{number}").write_bytes(bytes([index]) + encode(message))


def fuzz(inputs: int, seed: int, directory: Path, *, show: bool) -> tuple[int, int, str]:
    """Runs the fuzzer as a child. Returns its exit code, how many inputs it ran, and the end of what it said."""
    write_corpus(directory / "corpus")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.target",
        str(directory / "corpus"),
        f"-runs={inputs}",
        f"-seed={seed}",
        "-max_len=8192",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEMORY_MEGABYTES}",
        f"-malloc_limit_mb={SINGLE_ALLOCATION_MEGABYTES}",
        f"-artifact_prefix={directory}/",
        "-print_final_stats=1",
    ]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines = [*lines[-200:], line.rstrip()]
            if show and re.match(r"#\d+\s+(pulse|INITED|DONE)", line):
                typer.echo(line.rstrip(), err=True)
    text = "\n".join(lines)
    ran = re.search(r"stat::number_of_executed_units:\s+(\d+)", text)
    return process.returncode, int(ran[1]) if ran else 0, text


def main(
    inputs: Annotated[int, typer.Option(help="How many inputs.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of every change.")] = 1,
) -> None:
    """Exit 1 when an input crashes the decoder, hangs it, makes it hold too much, or gets any code run."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        code, ran, text = fuzz(inputs, seed, Path(scratch), show=True)
        found = sorted(path for path in Path(scratch).iterdir() if path.is_file())
        if code != 0 or found or ran < inputs:
            typer.echo(text, err=True)
            for path in found:
                typer.echo(f"{path.name}: {path.read_bytes().hex()}", err=True)
            raise typer.Exit(1)
    typer.echo(f"{ran:,} inputs: no crash, no hang, nothing held beyond the limit, no code run")


if __name__ == "__main__":
    typer.run(main)
