"""Traces, metrics and logs over OTLP/HTTP, with the OpenTelemetry SDK set up by hand.

Imported only where an endpoint is set. Endpoint, headers, certificates, compression and
timeouts come from the standard OTEL_* variables, which the exporters read themselves.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from runtime import logs, metrics, telemetry
from runtime.errors import SettingsError
from runtime.otlp_metrics import metrics_data

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from runtime.settings import Settings

SCOPE = InstrumentationScope("relais")
QUEUE_MAX_SPANS = 16_384  # some seconds of a busy worker; what is more is dropped, not waited for
SPANS_EVERY_MS = 1_000
METRICS_EVERY_MS = 15_000
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

    def __init__(self, *, service: str, settings: Settings) -> None:
        self._resource = Resource.create(
            {
                "service.name": f"relais-{service}",
                "service.namespace": "relais",
                "service.version": settings.version,
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
                telemetry.ATTRIBUTES["colour"]: settings.colour,
            }
        )
        self._spans = BatchSpanProcessor(
            OTLPSpanExporter(),
            max_queue_size=int(_number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX_SPANS)),
            schedule_delay_millis=_number("OTEL_BSP_SCHEDULE_DELAY", SPANS_EVERY_MS),
        )
        self._provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self._handler = _Handler(self._provider)
        logging.getLogger().addHandler(self._handler)
        self._metrics = _MetricsThread(self._resource)
        self._metrics.start()

    def end(self, span: telemetry.Span, *, ended_ns: int) -> None:
        """Hand a finished span over; never waits."""
        self._spans.on_end(
            ReadableSpan(
                name=span.name,
                context=_context(span.trace_id, span.span_id, flags=span.flags),
                parent=_context(
                    span.trace_id,
                    span.parent_span_id,
                    flags=span.flags,
                    is_remote=span.parent_is_remote,
                )
                if span.parent_span_id
                else None,
                resource=self._resource,
                attributes=_allowed(span.attributes or {}),
                kind=_KINDS[span.kind],
                status=Status(StatusCode.ERROR, span.failure)
                if span.failure is not None
                else Status(StatusCode.UNSET),
                start_time=span.started_ns,
                end_time=ended_ns,
                instrumentation_scope=SCOPE,
            )
        )

    def shutdown(self, *, timeout_s: float) -> None:
        """Flush everything; an endpoint that does not answer costs at most `timeout_s`."""
        logging.getLogger().removeHandler(self._handler)
        deadline = time.monotonic() + timeout_s
        closers = [
            threading.Thread(target=close, daemon=True)
            for close in (self._spans.shutdown, self._provider.shutdown, self._metrics.close)
        ]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join(max(0.0, deadline - time.monotonic()))


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
        ids = telemetry.current_ids()
        action = str(line.pop("action"))
        self._provider.get_logger(record.name).emit(
            LogRecord(
                timestamp=int(record.created * 1e9),
                observed_timestamp=time.time_ns(),
                context=set_span_in_context(
                    NonRecordingSpan(_context(*ids) if ids else SpanContext(0, 0, is_remote=False))
                ),
                severity_text=record.levelname,
                severity_number=_SEVERITY.get(record.levelno, SeverityNumber.INFO),
                body=str(line.pop("message")) if action == "library.message" else action,
                attributes={key: _plain(value) for key, value in line.items()},
                event_name=action,
            )
        )


def _context(
    trace_id: str, span_id: str, *, flags: int = TraceFlags.SAMPLED, is_remote: bool = False
) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=is_remote, trace_flags=TraceFlags(flags)
    )


def _allowed(attributes: dict[str, telemetry.Attribute | None]) -> dict[str, AttributeValue]:
    """`attributes` under the names they are exported by; None and unknown ones are left out."""
    return {
        telemetry.ATTRIBUTES[name]: value[: telemetry.TEXT_MAX] if isinstance(value, str) else value
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
