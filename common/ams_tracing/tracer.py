"""Sends the spans of requests that ended to a collector, by OTLP over HTTP, from a thread of its own.

OpenTelemetry's exporter and its batches do the work: at most 2,048 spans wait, further ones are dropped, and a
collector that is away costs nobody anything.
"""

import importlib.metadata
import logging
import os
from typing import Any
from urllib.parse import urlsplit

from ams_common.options import OptionError
from ams_common.spans import PlainSpan, spans_of
from ams_common.timeline import Timeline
from ams_common.traceparent import CHANCE_BYTES, TraceContext, begin_trace

_EXTRA = "pip install 'ai-model-server[tracing]'"
_NEEDED = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
_PATH = "/v1/traces"
_CLOSE_MILLISECONDS = 3000


class Tracer:
    """Of one process. `begin` is for each request, `end` for those that are sampled; both on any thread."""

    def __init__(self, processor: Any, resource: Any, ratio: float) -> None:
        self._processor = processor
        self._resource = resource
        self._ratio = ratio

    def begin(self, parent: str | None, state: str | None) -> TraceContext:
        """The context of a request with these headers, `traceparent` and `tracestate`."""
        return begin_trace(parent, state, self._ratio, os.urandom(CHANCE_BYTES))

    def end(self, timeline: Timeline, context: TraceContext) -> None:
        """A request ended; its spans are sent if it is sampled."""
        if not context.sampled:
            return
        for span in spans_of(timeline, context):
            self._processor.on_end(self._made(span))

    def close(self) -> None:
        """Send what waits, for at most some seconds. Blocks."""
        self._processor.force_flush(_CLOSE_MILLISECONDS)
        self._processor.shutdown()

    def _made(self, span: PlainSpan) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        trace, state = int(span.trace, 16), TraceState.from_header([span.state]) if span.state else None
        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = SpanContext(trace, int(span.parent, 16), True, flags, state) if span.parent else None
        return ReadableSpan(
            span.name,
            context=SpanContext(trace, int(span.span, 16), False, flags, state),
            parent=parent,
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=SpanKind[span.kind.upper()],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start,
            end_time=span.end,
        )


def open_tracer(endpoint: str, ratio: float, service: str) -> Tracer | None:
    """None without an endpoint: then nothing of OpenTelemetry is imported.

    `service` is what the spans' resource is called. OptionError for an endpoint that can't be used, or where
    OpenTelemetry isn't installed.
    """
    if not endpoint:
        return None
    check_tracing(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    url = endpoint if urlsplit(endpoint).path.endswith(_PATH) else endpoint.rstrip("/") + _PATH
    resource = Resource.create({"service.name": service, "service.version": _version()})
    return Tracer(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)), resource, ratio)


def check_tracing(endpoint: str) -> None:
    """OptionError for an endpoint that can't be used, or where OpenTelemetry isn't installed; nothing is imported."""
    if not endpoint:
        return
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise OptionError(f"--otlp-endpoint={endpoint!r}: expected a URL like http://collector:4318")
    missing = next((name for name in _NEEDED if not _is_installed(name)), None)
    if missing is not None:
        raise OptionError(f"--otlp-endpoint needs {missing}, which isn't installed; run: {_EXTRA}")


def _is_installed(name: str) -> bool:
    return _version(name) != ""


def _version(name: str = "ai-model-server") -> str:
    """Of an installed distribution; empty if it isn't installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
