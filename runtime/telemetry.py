"""One trace from the caller's `traceparent` through every process that touches a job.

Without OTEL_EXPORTER_OTLP_ENDPOINT a span is two random numbers and a context variable: ids
are still made, stored and passed on, so that a job can always be found by its trace id. With
it, `runtime.otlp` exports spans, metrics and logs.

    with telemetry.span("smtp.transaction", kind="client", attributes={"relay": name}) as span:
        ...
        span.set(outcome="sent", reply_code=250)
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextvars import ContextVar
from random import getrandbits
from typing import TYPE_CHECKING, Literal, Self

from runtime import logs
from runtime.redaction import redacted

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from runtime.otlp import Pipeline
    from runtime.settings import Settings

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute = str | int | float | bool

# Everything a span may say, by the short name that callers use and the name that is exported.
# What is not in here is left out: an address or a subject cannot slip into a trace.
ATTRIBUTES = {
    "attempt": "relais.attempt",
    "bytes": "relais.bytes",
    "colour": "relais.colour",
    "count": "relais.count",
    "enhanced_code": "smtp.response.enhanced_code",
    "host": "server.address",
    "job_id": "relais.job.id",
    "jobs": "relais.jobs",
    "kind": "relais.job.kind",
    "message_row": "relais.message.id",
    "method": "http.request.method",
    "outcome": "relais.outcome",
    "phase": "smtp.phase",
    "pipelining": "smtp.pipelining",
    "policy": "relais.relay.policy",
    "port": "server.port",
    "queue": "relais.queue",
    "relay": "relais.relay",
    "reply_code": "smtp.response.code",
    "reused": "relais.connection.reused",
    "route": "http.route",
    "schedule": "relais.schedule",
    "state": "relais.job.state",
    "status": "http.response.status_code",
    "tenant": "relais.tenant",
    "tls": "network.tls",
    "tries": "relais.tries",
    "worker": "relais.worker",
    "workflow_id": "relais.workflow.id",
}
TEXT_MAX = 200  # characters of one attribute or reason
SHUTDOWN_S = 5.0
_ENDPOINTS = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_")
)
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1

_current: ContextVar[Span | None] = ContextVar("relais_span", default=None)
_pipelines: list[Pipeline] = []
_sampled_share: list[float] = [1.0]


class Span:
    """A piece of work in a trace; enter it with `with`, in plain or async code."""

    __slots__ = (
        "attributes",
        "failure",
        "flags",
        "kind",
        "name",
        "parent_is_remote",
        "parent_span_id",
        "span_id",
        "started_ns",
        "token",
        "trace_id",
    )

    def __init__(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: str | None,
        attributes: dict[str, Attribute | None] | None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.failure: str | None = None
        self.started_ns = 0
        self.token: Token[Span | None] | None = None
        self.parent_is_remote = False
        self.span_id = _span_id()
        match = _TRACEPARENT.fullmatch(parent) if parent else None
        if match is not None and _is_valid(match):
            self.trace_id, self.parent_span_id = match[2], match[3]
            self.flags = int(match[4], 16) & _SAMPLED
            self.parent_is_remote = True
        elif (around := _current.get()) is not None:
            self.trace_id, self.parent_span_id = around.trace_id, around.span_id
            self.flags = around.flags
        else:
            self.trace_id, self.parent_span_id = _trace_id(), ""
            self.flags = _sampling(self.trace_id)

    @property
    def traceparent(self) -> str:
        """What to pass on, so that the next process continues this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes by the short names of `ATTRIBUTES`; others are left out."""
        if self.attributes is None:
            self.attributes = attributes
        else:
            self.attributes = {**self.attributes, **attributes}

    def fail(self, reason: str) -> None:
        """Mark the span as failed; addresses in `reason` are taken out."""
        self.failure = redacted(reason)[:TEXT_MAX]

    def __enter__(self) -> Self:
        self.token = _current.set(self)
        if _pipelines:
            self.started_ns = time.time_ns()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.token is not None:
            _current.reset(self.token)
            self.token = None
        if not self.started_ns:
            return
        if error_type is not None and self.failure is None:
            # A cancelled span is work given back, not work gone wrong.
            if issubclass(error_type, asyncio.CancelledError):
                self.set(outcome="cancelled")
            else:
                self.failure = error_type.__name__
        if self.flags & _SAMPLED:
            for pipeline in _pipelines:
                pipeline.end(self, ended_ns=time.time_ns())


def span(
    name: str,
    *,
    kind: SpanKind = "internal",
    parent: str | None = None,
    attributes: dict[str, Attribute | None] | None = None,
) -> Span:
    """A span below `parent` (a traceparent), below the current span, or of a new trace."""
    return Span(name, kind=kind, parent=parent, attributes=attributes)


def current_traceparent() -> str | None:
    """The traceparent of the span around this code."""
    around = _current.get()
    return None if around is None else around.traceparent


def current_ids() -> tuple[str, str] | None:
    """(trace id, span id) of the span around this code, as hexadecimal."""
    around = _current.get()
    return None if around is None else (around.trace_id, around.span_id)


def parse(traceparent: str | None) -> str | None:
    """`traceparent` as version 00 of W3C Trace Context, or None where it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or not _is_valid(match):
        return None
    return f"00-{match[2]}-{match[3]}-{int(match[4], 16) & _SAMPLED:02x}"


def trace_id_of(traceparent: str) -> str:
    """The trace id in a traceparent that `parse` or `new_traceparent` returned."""
    return traceparent[3:35]


def new_traceparent() -> str:
    """The start of a trace of its own."""
    trace_id = _trace_id()
    return f"00-{trace_id}-{_span_id()}-{_sampling(trace_id):02x}"


def configure(service: str, settings: Settings) -> None:
    """Start exporting where an OTLP endpoint is set; call it after any fork, once a process."""
    logs.with_trace_ids(current_ids)
    shutdown()
    _sampled_share[:] = [_share_to_sample()]
    if is_exporting():
        # The SDK costs 25 MB; a process that exports nothing does not pay for it.
        from runtime.otlp import Pipeline  # noqa: PLC0415

        _pipelines.append(Pipeline(service=service, settings=settings))


def is_exporting() -> bool:
    """Whether the environment names an OTLP endpoint."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return any(os.environ.get(name) for name in _ENDPOINTS)


def shutdown() -> None:
    """Send what is still held back, for at most `SHUTDOWN_S`, and stop exporting."""
    while _pipelines:
        _pipelines.pop().shutdown(timeout_s=SHUTDOWN_S)


def _is_valid(match: re.Match[str]) -> bool:
    """Zero ids mean "none"; only a version after 00 may carry more fields."""
    return match[2] != "0" * 32 and match[3] != "0" * 16 and (match[5] is None or match[1] != "00")


def _trace_id() -> str:
    return f"{getrandbits(128) or 1:032x}"


def _span_id() -> str:
    return f"{getrandbits(64) or 1:016x}"


def _sampling(trace_id: str) -> int:
    """The sampled flag of a new trace: the same answer in every process that asks."""
    return _SAMPLED if int(trace_id[16:], 16) < _sampled_share[0] * 2**64 else 0


def _share_to_sample() -> float:
    """How many of the traces that start here are exported; a caller's own flag always stands."""
    if os.environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_") != "traceidratio":
        return 1.0
    try:
        return min(1.0, max(0.0, float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))))
    except ValueError:
        return 1.0
