"""A timeline as OpenTelemetry spans, sent to whoever collects them. Needs the extra `otel`; nothing is sent unless asked for."""

import hashlib
import logging
from collections.abc import Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from monitoring.trace.errors import ExportFailed
from monitoring.trace.timeline import Stretch, Timeline

TIMEOUT_SECONDS = 10.0
_SCOPE = InstrumentationScope("collafuse.trace")


def send(timeline: Timeline, url: str) -> int:
    """Send one span for the whole and one for each stretch; returns how many. The same timeline has the same spans each time.

    url: of an OTLP/HTTP receiver of traces, such as http://127.0.0.1:4318/v1/traces.

    Raises ExportFailed when they did not arrive.
    """
    sent = list(spans(timeline))
    # What the library says of a failure in many lines is said here in one.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_SECONDS)
    try:
        result = exporter.export(sent)
    except (OSError, ValueError) as error:
        raise ExportFailed(f"the spans did not reach {url}: {error}") from error
    finally:
        exporter.shutdown()
    if result is not SpanExportResult.SUCCESS:
        raise ExportFailed(
            f"the spans did not reach {url} within {TIMEOUT_SECONDS:g} s: does an OTLP/HTTP receiver of traces listen there?"
        )
    return len(sent)


def spans(timeline: Timeline) -> Iterator[ReadableSpan]:
    """The spans; the id of the job, or of the request, is the trace's."""
    trace = timeline.job_id or timeline.requests[0]
    first, last = timeline.lines[0], timeline.lines[-1]
    of_way = [each.begin for each in timeline.stretches] + [each.end for each in timeline.stretches]
    name = "request for the stock" if timeline.job_id is None else "image"
    begin, end = min([first.at, *of_way]), max([last.at, *of_way])
    root = Stretch(name, None, False, first.process, begin, end)
    yield _span(trace, root, None)
    for stretch in timeline.stretches:
        yield _span(trace, stretch, _context(trace, root))


def _span(trace: str, stretch: Stretch, parent: SpanContext | None) -> ReadableSpan:
    attributes: dict[str, str | float | bool] = {
        "collafuse.seconds": stretch.seconds,
        "collafuse.from_stock": stretch.stock,
    }
    if stretch.request_id is not None:
        attributes["collafuse.request_id"] = stretch.request_id
    return ReadableSpan(
        stretch.name,
        context=_context(trace, stretch),
        parent=parent,
        resource=Resource({"service.name": f"collafuse-{stretch.process or 'unknown'}"}),
        attributes=attributes,
        # A span cannot end before it begins; where clocks differ, the attribute alone says how it looked.
        start_time=_nanoseconds(min(stretch.begin, stretch.end)),
        end_time=_nanoseconds(stretch.end),
        instrumentation_scope=_SCOPE,
    )


def _context(trace: str, stretch: Stretch) -> SpanContext:
    digest = hashlib.sha256(f"{trace}|{stretch.name}|{stretch.request_id}".encode()).digest()
    return SpanContext(
        int(trace, 16),
        int.from_bytes(digest[:8]) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _nanoseconds(unix_seconds: float) -> int:
    return round(unix_seconds * 1e9)
