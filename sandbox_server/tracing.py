"""OpenTelemetry spans, one for each run, sent to an OTLP collector. Needs the extra `tracing`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sandbox_server.records import CallRecord, Listener
from sandbox_server.settings import SettingsError


@contextlib.contextmanager
def tracing(endpoint: str) -> Iterator[Listener]:
    """Yield what turns records into spans; what is not yet sent at the end is flushed.

    A caller's own trace goes on through ``traceparent`` in the call's metadata (W3C Trace Context).

    Raises:
        SettingsError: the OpenTelemetry SDK or its exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError as error:
        raise SettingsError("trace_endpoint: needs OpenTelemetry: pip install 'selfalign[tracing]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "selfalign-sandbox"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http:"))))
    tracer = provider.get_tracer("sandbox_server")
    propagator = TraceContextTextMapPropagator()

    def listen(record: CallRecord) -> None:
        parent = propagator.extract({"traceparent": record.traceparent}) if record.traceparent else None
        span = tracer.start_span(
            "sandbox.run",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=record.started_ns,
            attributes={
                "sandbox.request_id": record.request_id,
                "sandbox.runtime": record.runtime,
                "sandbox.status": record.status,
                "sandbox.verdict": record.verdict,
                "sandbox.cached": record.cached,
                "sandbox.queue_wait_ms": record.queue_wait_s * 1000,
            },
        )
        span.end(record.started_ns + round((record.queue_wait_s + record.run_s) * 1e9))

    try:
        yield listen
    finally:
        provider.shutdown()
