"""A timeline as OpenTelemetry spans, received by a real HTTP server and decoded as OTLP says."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from monitoring.trace.errors import ExportFailed
from monitoring.trace.log_reader import find
from monitoring.trace.spans import send
from monitoring.trace.timeline import timeline
from tests.monitoring.trace import story
from tests.monitoring.trace.story import BEGIN, JOB, REQUEST


class Receiver(HTTPServer):
    """Takes OTLP at /v1/traces and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[bytes] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[tuple[str, Any]]:
        """(service, span) of everything that came."""
        return [
            (each.resource.attributes[0].value.string_value, span)
            for body in self.received
            for each in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        self.server.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the standard library's
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "log"
    path.write_text("\n".join((*story.device(), *story.worker())))
    return str(path)


def test_each_stretch_is_a_span_of_the_jobs_trace(receiver: Receiver, log: str) -> None:
    found = timeline(find(JOB, [log]))

    assert send(found, receiver.url) == len(found.stretches) + 1

    spans = receiver.spans()
    assert {span.trace_id.hex() for _, span in spans} == {JOB}
    by_name = {span.name: (service, span) for service, span in spans}
    root = by_name["image"][1]
    assert root.parent_span_id == b""
    assert {span.parent_span_id for _, span in spans if span is not root} == {root.span_id}
    service, computing = by_name["computing"]
    assert service == "collafuse-denoise"
    assert computing.start_time_unix_nano == pytest.approx((BEGIN + 2.25) * 1e9, abs=1e3)
    assert computing.end_time_unix_nano - computing.start_time_unix_nano == pytest.approx(3e9, abs=1e3)
    told = {each.key: each.value for each in computing.attributes}
    assert told["collafuse.request_id"].string_value == REQUEST
    assert by_name["head"][0] == "collafuse-edge"


def test_sent_twice_it_is_the_same_trace(receiver: Receiver, log: str) -> None:
    found = timeline(find(JOB, [log]))
    send(found, receiver.url)
    send(found, receiver.url)
    ids = [span.span_id for _, span in receiver.spans()]
    assert len(ids) == 2 * len(set(ids))


def test_a_receiver_that_refuses_or_is_not_there_is_one_error(receiver: Receiver, log: str) -> None:
    found = timeline(find(JOB, [log]))
    receiver.status = 400
    with pytest.raises(ExportFailed, match="did not reach"):
        send(found, receiver.url)


def test_the_command_sends_only_when_it_is_told_to(receiver: Receiver, log: str) -> None:
    command = [sys.executable, "-m", "collafuse", "trace", JOB, log, "--json"]
    silent = subprocess.run(command, capture_output=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    assert receiver.received == []
    told = subprocess.run([*command, "--otlp", receiver.url], capture_output=True, check=True, timeout=60)
    assert len(receiver.received) == 1
    assert told.stdout == silent.stdout
    assert b"spans to" in told.stderr
