"""Traces, metrics and logs over OTLP/HTTP, with the OpenTelemetry SDK set up by hand.

Imported only where an endpoint is set. Endpoint, headers, certificates, compression and
timeouts come from the standard OTEL_* variables, which the exporters read themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runtime import logs, metrics, telemetry
from runtime.errors import SettingsError
from runtime.otlp_metrics import metrics_data
from runtime.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from runtime.settings import Settings

SCOPE = "relais"
TEXT_MAX = 200  # characters of one attribute or reason
QUEUE_MAX_SPANS = 16_384  # some seconds of a busy worker; more than that is dropped, not waited for
SPANS_EVERY_MS = 1_000
METRICS_EVERY_MS = 15_000
_W3C = TraceContextTextMapPropagator()  # what the ledger keeps, whatever is asked for outside
_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_OWN_LOGGERS = ("opentelemetry", "urllib3", "requests")  # exporting these would feed on itself
_SEVERITY = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}


class Pipeline:
    """The exporters of one process; all of them work in threads of their own."""

    def __init__(self, *, service: str, settings: Settings, signals: frozenset[str]) -> None:
        """`signals`: which of traces, metrics and logs are exported."""
        resource = _resource(service, settings)
        self._closers: list[Callable[[], object]] = []
        self.tracer: Tracer | None = None
        if "traces" in signals:
            self.tracer = self._trace(resource)
        if "metrics" in signals:
            thread = _MetricsThread(resource)
            thread.start()
            self._closers.append(thread.close)
        self._handler: _Handler | None = None
        if "logs" in signals:
            provider = LoggerProvider(resource, shutdown_on_exit=False)
            provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
            self._handler = _Handler(provider)
            logging.getLogger().addHandler(self._handler)
            self._closers.append(provider.shutdown)

    def _trace(self, resource: Resource) -> Tracer:
        # The sampler and the limits of a span come from OTEL_* variables, which the SDK reads.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=int(_number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX_SPANS)),
            schedule_delay_millis=_number("OTEL_BSP_SCHEDULE_DELAY", SPANS_EVERY_MS),
        )
        provider.add_span_processor(processor)
        # Instrumented libraries of a user's kinds ask for this one.
        trace.set_tracer_provider(provider)
        self._closers.append(provider.shutdown)
        return Tracer(provider)

    def shutdown(self, *, timeout_s: float) -> None:
        """Flush everything; an endpoint that does not respond costs at most `timeout_s`."""
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
        deadline = time.monotonic() + timeout_s
        closers = [threading.Thread(target=close, daemon=True) for close in self._closers]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(max(0.0, deadline - time.monotonic()))


class Span(telemetry.Span):
    """A span of the SDK's, under Relais's names; OpenTelemetry's current one while entered."""

    __slots__ = ("_attached", "_span")

    def __init__(self, span: trace.Span, *, parent_span_id: str) -> None:
        # Not the base's: ids and flags are the SDK's.
        self._span = span
        self._attached: Token[Context] | None = None
        context = span.get_span_context()
        self.trace_id = trace.format_trace_id(context.trace_id)
        self.span_id = trace.format_span_id(context.span_id)
        self.parent_span_id = parent_span_id
        self.flags = int(context.trace_flags) & trace.TraceFlags.SAMPLED

    @property
    def context(self) -> Context:
        """OpenTelemetry's context with this span in it."""
        return trace.set_span_in_context(self._span)

    def set(self, **attributes: telemetry.Attribute | None) -> None:
        """Add attributes by the short names of `telemetry.ATTRIBUTES`; others are left out."""
        self._span.set_attributes(_allowed(attributes))

    def fail(self, reason: str) -> None:
        """Mark the span as failed; addresses in `reason` are taken out."""
        self._span.set_status(StatusCode.ERROR, redacted(reason)[:TEXT_MAX])

    def __enter__(self) -> Self:
        self._attached = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._attached is not None:
            otel_context.detach(self._attached)
            self._attached = None
        if error_type is not None:
            # A cancelled span is work given back, not work gone wrong.
            if issubclass(error_type, asyncio.CancelledError):
                self.set(outcome="cancelled")
            elif not self._has_failed():
                self._span.set_status(StatusCode.ERROR, error_type.__name__)
        self._span.end()

    def _has_failed(self) -> bool:
        status = getattr(self._span, "status", None)  # a span that is not sampled has none
        return status is not None and status.status_code is StatusCode.ERROR


class Tracer:
    """The SDK behind `telemetry.span`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer(SCOPE)

    def span(
        self,
        name: str,
        *,
        kind: telemetry.SpanKind,
        parent: str | None,
        attributes: Mapping[str, telemetry.Attribute | None],
    ) -> Span:
        """A span below `parent`, below OpenTelemetry's current span, or of a new trace."""
        around = otel_context.get_current()
        if given := telemetry.parse(parent):
            around = _W3C.extract({"traceparent": given}, around)
        made = self._tracer.start_span(
            name, context=around, kind=_KINDS[kind], attributes=_allowed(attributes)
        )
        above = trace.get_current_span(around).get_span_context()
        return Span(
            made, parent_span_id=trace.format_span_id(above.span_id) if above.is_valid else ""
        )

    def current_traceparent(self) -> str | None:
        """The traceparent of OpenTelemetry's current span."""
        return _traceparent(otel_context.get_current())

    def extract(self, headers: Mapping[str, str]) -> str | None:
        """What OTEL_PROPAGATORS find in the headers of a request."""
        return _traceparent(propagate.extract(headers, context=otel_context.Context()))

    def inject(self, span: telemetry.Span) -> dict[str, str]:
        """What OTEL_PROPAGATORS write into the headers of a request below `span`."""
        headers: dict[str, str] = {}
        if isinstance(span, Span):
            propagate.inject(headers, context=span.context)
        return headers


class _MetricsThread(threading.Thread):
    """Sends what this process has counted, every so often and once more at the end."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(name="otlp-metrics", daemon=True)
        self._resource = resource
        self._exporter = OTLPMetricExporter()
        self._every_s = _number("OTEL_METRIC_EXPORT_INTERVAL", METRICS_EVERY_MS) / 1000
        self._stopping = threading.Event()
        self._began_ns = time.time_ns()

    def run(self) -> None:
        """Export until closed."""
        while not self._stopping.wait(self._every_s):
            self._export()
        self._export()
        self._exporter.shutdown()

    def close(self) -> None:
        """Export once more and end."""
        self._stopping.set()
        self.join()

    def _export(self) -> None:
        data = metrics_data(
            metrics.own(), resource=self._resource, began_ns=self._began_ns, now_ns=time.time_ns()
        )
        if data is not None:
            self._exporter.export(data)


class _Handler(logging.Handler):
    """Log records with their action, fields and trace ids, as OTLP log records."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OWN_LOGGERS):
            return
        line = logs.as_fields(record)
        action = str(line.pop("action"))
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                observed_timestamp=time.time_ns(),
                context=otel_context.get_current(),
                severity_text=record.levelname,
                severity_number=_SEVERITY.get(record.levelno, SeverityNumber.INFO),
                body=str(line.pop("message")) if action == "library.message" else action,
                attributes={key: _plain(value) for key, value in line.items()},
                event_name=action,
            )
        )


def _resource(service: str, settings: Settings) -> Resource:
    """Who exports; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    ours = Resource.create(
        {
            "service.name": f"relais-{service}",
            "service.namespace": "relais",
            "service.version": settings.version,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            telemetry.ATTRIBUTES["colour"]: settings.colour,
        }
    )
    return ours.merge(OTELResourceDetector().detect())


def _traceparent(context: Context) -> str | None:
    headers: dict[str, str] = {}
    _W3C.inject(headers, context)
    return telemetry.parse(headers.get("traceparent"))


def _allowed(attributes: Mapping[str, telemetry.Attribute | None]) -> dict[str, AttributeValue]:
    """`attributes` under the names they are exported by; None and unknown ones are left out."""
    return {
        telemetry.ATTRIBUTES[name]: value[:TEXT_MAX] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None and name in telemetry.ATTRIBUTES
    }


def _plain(value: object) -> AttributeValue:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _number(variable: str, default: float) -> float:
    value = os.environ.get(variable) or default
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if number <= 0:
        sentence = f"{variable} is not a number above 0."
        raise SettingsError(sentence, remedy="See docs/configuration.md.")
    return number
