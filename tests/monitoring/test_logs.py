"""Log lines are one JSON object each, carry the ids in force, and never a password."""

import json
import logging
from typing import Any

import numpy as np
import pytest
import structlog

from monitoring import logs
from monitoring.errors import MonitoringError


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_carries_process_level_time_logger_and_the_ids_in_force(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("denoise", json=True)
    log = structlog.get_logger("server_worker.denoising.engine")
    with structlog.contextvars.bound_contextvars(request_id="4f1a", batch_id="77"):
        log.info("request_finished", samples=np.int64(4), seconds=np.float32(0.5))
    log.info("idle")
    inside, outside = lines(capsys)
    assert inside["event"] == "request_finished"
    assert inside["process"] == "denoise"
    assert inside["level"] == "info"
    assert inside["logger"] == "server_worker.denoising.engine"
    assert inside["timestamp"].endswith("Z")
    assert (inside["request_id"], inside["batch_id"]) == ("4f1a", "77")
    assert (inside["samples"], inside["seconds"]) == (4, 0.5)
    assert "request_id" not in outside


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("train", json=True, level="warning")
    structlog.get_logger("a").info("quiet")
    structlog.get_logger("a").warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


@pytest.mark.parametrize("as_json", [True, False])
def test_passwords_in_urls_are_masked_wherever_they_come_from(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logs.configure("edge", json=as_json)
    url = "amqp://clinic_1:s3cr3t%21@host:5672/collafuse"
    structlog.get_logger("a").info("connecting", url=url)
    logging.getLogger("a_library").warning("cannot reach %s", url)
    try:
        raise RuntimeError(f"lost {url}")
    except RuntimeError:
        structlog.get_logger("a").exception("link_lost")
    written = capsys.readouterr().err
    assert "s3cr3t" not in written
    assert written.count("amqp://clinic_1:***@host:5672/collafuse") == 3


def test_libraries_that_use_standard_logging_come_out_in_the_same_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("edge", json=True)
    logging.getLogger("a_library").info("chatter")
    logging.getLogger("a_library").warning("%d retries", 3)
    (line,) = lines(capsys)
    assert (line["event"], line["logger"], line["process"]) == ("3 retries", "a_library", "edge")


def test_lines_are_json_unless_stderr_is_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("edge")
    structlog.get_logger("a").info("started")
    assert lines(capsys)[0]["event"] == "started"


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(MonitoringError, match=r"'loud'.*debug, info, warning, error"):
        logs.configure("edge", level="loud")
