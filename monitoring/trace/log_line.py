"""One line of a log, as the processes write them and as log collectors hand them on."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ID = re.compile(r"[0-9a-f]{32}")
"""Ids of jobs and of requests: 32 hexadecimal digits."""

_OF_A_LINE = ("timestamp", "level", "logger", "process", "event")
_IDS = ("job_id", "request_id", "message_id", "correlation_id")
_PREFIX_CHARACTERS = 40
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and movements of the cursor, which `docker compose logs` of some versions writes into a pipe as well."""
LATEST_SECONDS = 2.0**34
"""Unix seconds of the year 2514: a line that says later, or before 1970, has no time that can be shown or sent."""


@dataclass(frozen=True, eq=False)
class LogLine:
    """One event.

    at: unix seconds, by the clock of the machine that wrote it.
    where: the container, as the collector's prefix names it, or the file; empty when neither is known.
    fields: what else the line says, ids among them.
    """

    at: float
    where: str
    process: str
    event: str
    fields: dict[str, Any]

    @property
    def job_id(self) -> str | None:
        """The job it is about, if it names one."""
        return as_id(self.fields.get("job_id"))

    @property
    def request_id(self) -> str | None:
        """The request it is about, if it names one; where a message was refused unread, its id is that of the request."""
        return as_id(self.fields.get("request_id")) or as_id(self.fields.get("message_id"))

    @property
    def about(self) -> frozenset[str]:
        """The ids it is about."""
        found = (as_id(self.fields.get(name)) for name in _IDS)
        return frozenset(each for each in found if each is not None)

    @property
    def brought_by(self) -> tuple[str, ...]:
        """The requests that filled the stock from which a job was served."""
        named = self.fields.get("requests")
        return tuple(filter(None, map(as_id, named))) if isinstance(named, list) else ()

    @property
    def details(self) -> dict[str, Any]:
        """What it says beside its ids."""
        return {name: value for name, value in self.fields.items() if name not in (*_IDS, "requests")}

    def seconds(self, name: str) -> float | None:
        """A field that is a number of seconds that may have passed before the line was written."""
        value = self.fields.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= self.at:
            return None
        return float(value)


def as_id(value: object) -> str | None:
    """The value, if it is an id."""
    return value if isinstance(value, str) and ID.fullmatch(value) else None


def parse(raw: bytes, source: str) -> LogLine | None:
    """Read a line that a process wrote as JSON, perhaps behind the prefix of a collector; None for any other.

    source: the name of the file that it stands in, used where there is no prefix.
    """
    text = raw.decode("utf-8", "replace")
    start = text.find("{")
    if start < 0:
        return None
    try:
        found = json.loads(text[start:], parse_float=_finite, parse_constant=_finite)
        at = datetime.fromisoformat(found["timestamp"]).timestamp()
        event = found["event"]
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    if not isinstance(event, str) or not 0 <= at <= LATEST_SECONDS:
        return None
    fields = {name: value for name, value in found.items() if name not in _OF_A_LINE}
    return LogLine(at, _where(text[:start], source), str(found.get("process", "")), event, fields)


def ids_in(lines: Iterable[LogLine], known: frozenset[str]) -> frozenset[str]:
    """The ids that lines about what is known lead to: of a request its job, of a job its requests and those of its stock."""
    found: set[str | None] = set()
    for line in lines:
        found |= {line.job_id, line.request_id}
        if line.job_id in known:
            found |= set(line.brought_by)
    return frozenset(each for each in found if each is not None)


def _finite(text: str) -> float | None:
    """A number as JSON has it; what Python's reader takes besides (NaN, Infinity, 1e400) is none."""
    value = float(text)
    return value if math.isfinite(value) else None


def _where(prefix: str, source: str) -> str:
    """The container that `docker compose logs` names before its bar; the host and process of a journal's line; else the file."""
    name = _TERMINAL.sub("", prefix).partition("|")[0].strip().rstrip(":")
    return name[-_PREFIX_CHARACTERS:] if name else source
