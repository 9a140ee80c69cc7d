"""One way of logging for every process: structlog, one event per line, on stderr.

Lines are JSON unless stderr is a terminal. Every line carries `timestamp` (UTC, ISO 8601), `level`,
`process`, `logger` and `event`. Identifiers such as `request_id` and `batch_id` are bound once, with
`structlog.contextvars.bound_contextvars(request_id=...)`, and appear on every line of that block.
"""

import json as json_module
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from monitoring.errors import MonitoringError

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PASSWORD_IN_URL = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/@]+@", re.IGNORECASE)


def configure(process: str, *, json: bool | None = None, level: str = "info") -> None:
    """Send every log line of this process to stderr, in one form.

    Args:
        process: what this process calls itself, e.g. `denoise`; the field `process` of each line.
        json: True for JSON lines, False for lines for people; None chooses JSON unless stderr is a terminal.
        level: the least level written: debug, info, warning or error.

    Raises:
        MonitoringError: the level is none of these.
    """
    if level not in LEVELS:
        raise MonitoringError(f"unknown log level {level!r}: use one of {', '.join(LEVELS)}")
    as_json = not sys.stderr.isatty() if json is None else json
    shared = _shared_processors(process)
    renderers = _renderers(as_json)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_NamedLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging(shared, renderers, LEVELS[level])


def without_passwords(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask the password of any URL in an event's strings.

    A structlog processor, and the last guard before a line is written: secrets should not get this far.
    """
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = _PASSWORD_IN_URL.sub(r"\g<head>:***@", value)
    return event


class _NamedLogger(structlog.WriteLogger):
    """A line writer that remembers the name given to `get_logger`, for the field `logger`."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name


class _NamedLoggerFactory:
    """Makes the writers; stderr is looked up at each use, so that a replaced stderr is honoured."""

    def __call__(self, *args: object) -> _NamedLogger:
        return _NamedLogger(str(args[0]) if args else "collafuse")


def _shared_processors(process: str) -> list[structlog.typing.Processor]:
    def add_process(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_process,
    ]


def _renderers(as_json: bool) -> list[structlog.typing.Processor]:
    before: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, without_passwords]
    if as_json:
        return [*before, structlog.processors.JSONRenderer(serializer=json_module.dumps, default=_plain)]
    # Plain tracebacks: the rich ones print local variables, and those may hold secrets.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [*before, console]


def _plain(value: object) -> object:
    """What JSON has no word for: numpy scalars as numbers, anything else by its repr."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return repr(value)


def _adopt_standard_logging(
    shared: list[structlog.typing.Processor], renderers: list[structlog.typing.Processor], level: int
) -> None:
    """Libraries that use the standard logging module come out in the same form, from `warning` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
