"""OpenTelemetry spans, exported to `OTEL_EXPORTER_OTLP_ENDPOINT`; without that variable tracing costs nothing."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Tracing:
    """Spans around work, children of the caller's span when the request has a `traceparent` header."""

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    def span(self, name: str, headers: Mapping[str, str], **attributes: int | str) -> AbstractContextManager[Any]:
        """Return a span that is current inside the block."""
        if self._tracer is None:
            return nullcontext()
        from opentelemetry.propagate import extract

        span: AbstractContextManager[Any] = self._tracer.start_as_current_span(
            name, context=extract(headers), attributes={f"evergreen.{key}": value for key, value in attributes.items()}
        )
        return span


@contextmanager
def open_tracing() -> Iterator[Tracing]:
    """Yield the tracing that the environment configures; send the remaining spans when the block ends."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield Tracing()
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "evergreen-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Tracing(provider.get_tracer("evergreen"))
    finally:
        provider.shutdown()
