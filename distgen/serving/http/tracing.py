"""A span of OpenTelemetry for each request, where its API is installed and somebody collects them.

Somebody does where the process has a tracer provider, or where OTEL_EXPORTER_OTLP_ENDPOINT names a
collector and the packages opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http are there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distgen.serving.http.visit import Visit

_log = logging.getLogger(__name__)


class Tracing:
    """Makes spans.

    Args:
        tracer: OpenTelemetry's.
    """

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> Tracing | None:
        """Tracing with the process's own provider, with one for the collector that the environment
        names, or None.
        """
        try:
            from opentelemetry import trace
        except ImportError:
            return None
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            if not environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
                return None
            try:
                trace.set_tracer_provider(_provider())
            except ImportError as error:
                _log.warning("No traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but %s", error)
                return None
        return cls(trace.get_tracer("distgen.serving"))

    @contextmanager
    def span(self, visit: Visit, headers: Mapping[bytes, bytes]) -> Iterator[None]:
        """Inside, a span is open for this request, below the one that its `traceparent` names."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        names = ("traceparent", "tracestate")
        carrier = {name: headers.get(name.encode(), b"").decode("latin-1") for name in names}
        parent = TraceContextTextMapPropagator().extract(carrier)
        with self._tracer.start_as_current_span(
            visit.method, context=parent, kind=SpanKind.SERVER
        ) as span:
            try:
                yield
            finally:
                span.update_name(f"{visit.method} {visit.route}")
                span.set_attributes(_attributes(visit))
                if visit.status >= 500:
                    span.set_status(Status(StatusCode.ERROR, visit.reason))


def _attributes(visit: Visit) -> dict[str, str | int | float]:
    """Names of OpenTelemetry's conventions for HTTP, and our own."""
    account = visit.account
    said: dict[str, str | int | float] = {
        "http.request.method": visit.method,
        "http.route": visit.route,
        "http.response.status_code": visit.status,
        "url.path": visit.path,
        "distgen.request_id": visit.request_id,
    }
    if visit.reason:
        said["error.type"] = visit.reason
    if account.model:
        said |= {"distgen.model": account.model, "distgen.digest": account.digest}
    if account.pictures:
        said |= {
            "distgen.pictures": account.pictures,
            "distgen.queue_s": account.queue_s,
            "distgen.forward_s": account.forward_s,
            "distgen.encode_s": account.encode_s,
        }
    return said


def _provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found]
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
