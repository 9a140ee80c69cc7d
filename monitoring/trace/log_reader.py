"""Looking through logs of any size for what is about one image: line by line, and nothing kept but what was looked for."""

import contextlib
import gzip
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from monitoring.trace.errors import BadId, LogUnreadable, NothingFound
from monitoring.trace.log_line import LogLine, as_id, ids_in, parse

STDIN = "-"
LINE_BYTES = 2**20
"""No line of ours is longer; what is, is read in pieces that make no sense, and passed over."""
MAX_LINES = 10_000
MAX_IDS = 200
GZIP_MAGIC = b"\x1f\x8b"
_PERHAPS = re.compile(rb"_id|requests")


@dataclass(frozen=True, eq=False)
class Found:
    """What the logs say of an image.

    lines: in the order of their clocks.  known: every id that they are about.  cut: whether there were more of them.
    """

    lines: list[LogLine]
    known: frozenset[str]
    cut: bool


def find(wanted: str, logs: Sequence[str]) -> Found:
    """Every line about a job or a request, in files or, as `-`, in what comes on stdin.

    A log is read again for the ids that the first reading found: the requests of a job, the job of a request. What comes through
    a pipe is written to a temporary file for that, as far as it has ids.

    Raises BadId, LogUnreadable, or NothingFound when there is no such line.
    """
    if as_id(wanted) is None:
        raise BadId(
            f"{wanted[:80]!r} is no id: take the job's, 32 hexadecimal digits, from `collafuse edge generate` or the device's"
            " API, or that of a request from a log"
        )
    with ExitStack() as stack:
        sources = [_open(log, stack) for log in logs]
        known = frozenset((wanted,))
        while True:
            lines, cut = _about(sources, known)
            more = ids_in(lines, known) - known
            if not more:
                break
            if len(known) + len(more) > MAX_IDS:
                cut = True
                break
            known |= more
    if not lines:
        raise NothingFound(
            f"nothing is said of {wanted} in {', '.join(name or 'stdin' for name, _ in sources)}: are they the logs of the device"
            " and of the denoise workers, of that time, and in JSON?"
        )
    return Found(sorted(lines, key=lambda line: line.at), known, cut)


def _about(sources: Sequence[tuple[str, IO[bytes]]], known: frozenset[str]) -> tuple[list[LogLine], bool]:
    """The lines about any of these ids, at most MAX_LINES, and whether there are more."""
    looks_right = re.compile(b"|".join(each.encode() for each in sorted(known)))
    found: list[LogLine] = []
    for name, stream in sources:
        stream.seek(0)
        for raw in _raw_lines(stream, name):
            line = parse(raw, name) if looks_right.search(raw) else None
            if line is None or not line.about & known:
                continue
            if len(found) == MAX_LINES:
                return found, True
            found.append(line)
    return found, False


def _raw_lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from iter(partial(stream.readline, LINE_BYTES), b"")
    except OSError as error:
        raise LogUnreadable(f"cannot read {name or 'stdin'}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise LogUnreadable(
            f"cannot read {name or 'stdin'}: what gzip made of it is cut off or damaged ({error}); unpack what is left of it"
            " with zcat"
        ) from error


def _open(log: str, stack: ExitStack) -> tuple[str, IO[bytes]]:
    """A log under the name that its lines are shown with, to be read more than once."""
    if log == STDIN:
        return "", _read_again(sys.stdin.buffer, "", stack)
    path = Path(log)
    try:
        stream = stack.enter_context(path.open("rb"))
    except OSError as error:
        raise LogUnreadable(f"cannot read {log}: {error.strerror}") from error
    return path.name, _read_again(stream, path.name, stack)


def _read_again(stream: IO[bytes], name: str, stack: ExitStack) -> IO[bytes]:
    """What a file or a pipe says, to be read as often as it is wanted; what gzip packed is unpacked, whatever its name."""
    is_file = False
    with contextlib.suppress(OSError):
        is_file = stream.seekable()
    if _is_packed(stream, name, is_file=is_file):
        unpacked = gzip.open(stream, "rb")  # noqa: SIM115  # the stack closes it
        stack.callback(unpacked.close)
        stream = cast("IO[bytes]", unpacked)
    return stream if is_file else _kept(stream, name, stack)


def _is_packed(stream: IO[bytes], name: str, *, is_file: bool) -> bool:
    """Whether it begins as gzip does; afterwards it is where it was."""
    size = len(GZIP_MAGIC)
    try:
        if not is_file:
            return cast("BufferedReader", stream).peek(size)[:size] == GZIP_MAGIC
        begin = stream.read(size)
        stream.seek(0)
    except OSError as error:
        raise LogUnreadable(f"cannot read {name or 'stdin'}: {error.strerror or error}") from error
    return begin == GZIP_MAGIC


def _kept(stream: IO[bytes], name: str, stack: ExitStack) -> IO[bytes]:
    """What comes through a pipe, written down as far as it may be of use."""
    kept = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # the stack closes it
    try:
        kept.writelines(raw for raw in _raw_lines(stream, name) if _PERHAPS.search(raw))
    except OSError as error:
        raise LogUnreadable(
            f"cannot keep what comes through the pipe in {tempfile.gettempdir()}: {error.strerror or error}"
        ) from error
    return kept
