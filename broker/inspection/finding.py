"""One judgement about a broker, and the words it is put in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

NAMES_SHOWN = 5


class Severity(StrEnum):
    """How much a finding matters: data or identities in danger, worth a look, or as it should be."""

    UNSAFE = "unsafe"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """One judgement: what is so, and what to do about it (empty when all is well)."""

    severity: Severity
    subject: str
    what: str
    do: str = ""


Findings = Iterator[Finding]


def unsafe(subject: str, what: str, do: str) -> Finding:
    """Data or identities are in danger."""
    return Finding(Severity.UNSAFE, subject, what, do)


def warning(subject: str, what: str, do: str) -> Finding:
    """Worth a look."""
    return Finding(Severity.WARNING, subject, what, do)


def ok(subject: str, what: str) -> Finding:
    """As it should be."""
    return Finding(Severity.OK, subject, what)


def listed(words: Sequence[str]) -> str:
    """Returns the first few words, and how many more there are."""
    more = f" and {len(words) - NAMES_SHOWN} more" if len(words) > NAMES_SHOWN else ""
    return ", ".join(words[:NAMES_SHOWN]) + more


def number(count: int, noun: str) -> str:
    """Returns a count and its noun."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(size_bytes: int | None) -> str:
    """Returns a size in the largest unit that fits."""
    if size_bytes is None:
        return "an unknown size"
    for unit, unit_bytes in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.3g} {unit}"
    return f"{size_bytes} bytes"
