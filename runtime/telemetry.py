"""One trace from the caller's `traceparent` through every process that touches a job.

Without OTEL_EXPORTER_OTLP_ENDPOINT a span is two random numbers and a context variable: ids
are still made, stored and passed on, so that a job can always be found by its trace id. With
it, spans are OpenTelemetry's own (`runtime/otlp.py`), and so is everything about them: sampling,
propagation, what is the current one. `runtime/exporting.py` decides which of the two it is.

    with telemetry.span("smtp.transaction", kind="client", attributes={"relay": name}) as span:
        ...
        span.set(outcome="sent", reply_code=250)
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from random import getrandbits
from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token
    from types import TracebackType

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute = str | int | float | bool

# All attributes a span may have, by the short name that callers use and the exported name.
# Anything else is dropped: an address or a subject cannot slip into a trace.
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
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Span:
    """A piece of work in a trace; enter it with `with`, in plain or async code."""

    __slots__ = ("flags", "parent_span_id", "span_id", "token", "trace_id")

    def __init__(self, parent: str | None) -> None:
        self.token: Token[Span | None] | None = None
        self.span_id = f"{getrandbits(64) or 1:016x}"
        match = _TRACEPARENT.fullmatch(parent) if parent else None
        if match is not None and _is_valid(match):
            self.trace_id, self.parent_span_id = match[2], match[3]
            self.flags = int(match[4], 16) & _SAMPLED
        elif (around := _current.get()) is not None:
            self.trace_id, self.parent_span_id = around.trace_id, around.span_id
            self.flags = around.flags
        else:
            self.trace_id, self.parent_span_id = f"{getrandbits(128) or 1:032x}", ""
            self.flags = _SAMPLED

    @property
    def traceparent(self) -> str:
        """What to pass on, so that the next process continues this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes by the short names of `ATTRIBUTES`; others are left out."""

    def fail(self, reason: str) -> None:
        """Mark the span as failed; addresses in `reason` are taken out."""

    def __enter__(self) -> Self:
        self.token = _current.set(self)
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


class Tracer(Protocol):
    """Where spans come from while this process exports them."""

    def span(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: str | None,
        attributes: Mapping[str, Attribute | None],
    ) -> Span:
        """A span below `parent`, below the current span, or of a new trace."""

    def current_traceparent(self) -> str | None:
        """The traceparent of the current span, whatever started it."""

    def extract(self, headers: Mapping[str, str]) -> str | None:
        """What the headers of a request say, as a traceparent."""

    def inject(self, span: Span) -> dict[str, str]:
        """What a request below `span` carries, so that its receiver continues it."""


_current: ContextVar[Span | None] = ContextVar("relais_span", default=None)
_tracer: list[Tracer] = []  # one while this process exports


def use(tracer: Tracer | None) -> None:
    """Take spans from `tracer` from now on; None: only ids are generated."""
    _tracer[:] = [] if tracer is None else [tracer]


def span(
    name: str,
    *,
    kind: SpanKind = "internal",
    parent: str | None = None,
    attributes: Mapping[str, Attribute | None] | None = None,
) -> Span:
    """A span below `parent` (a traceparent), below the current span, or of a new trace."""
    if _tracer:
        return _tracer[0].span(name, kind=kind, parent=parent, attributes=attributes or {})
    return Span(parent)


def current_traceparent() -> str | None:
    """The traceparent of the span around this code."""
    if _tracer:
        return _tracer[0].current_traceparent()
    around = _current.get()
    return None if around is None else around.traceparent


def current_ids() -> tuple[str, str] | None:
    """(trace id, span id) of the span around this code, as hexadecimal."""
    around = current_traceparent()
    return None if around is None else (around[3:35], around[36:52])


def extract(headers: Mapping[str, str]) -> str | None:
    """The traceparent of a request with `headers` (names in lower case)."""
    return _tracer[0].extract(headers) if _tracer else headers.get("traceparent")


def inject(span: Span) -> dict[str, str]:
    """The headers of a request below `span`, so that its receiver continues the trace."""
    return _tracer[0].inject(span) if _tracer else {"traceparent": span.traceparent}


def parse(traceparent: str | None) -> str | None:
    """`traceparent` as version 00 of W3C Trace Context, or None where it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is None or not _is_valid(match):
        return None
    return f"00-{match[2]}-{match[3]}-{int(match[4], 16) & _SAMPLED:02x}"


def trace_id_of(traceparent: str) -> str:
    """The trace id in a traceparent that `parse` or a span returned."""
    return traceparent[3:35]


def _is_valid(match: re.Match[str]) -> bool:
    """Zero ids mean "none"; only a version after 00 may carry more fields."""
    return match[2] != "0" * 32 and match[3] != "0" * 16 and (match[5] is None or match[1] != "00")
