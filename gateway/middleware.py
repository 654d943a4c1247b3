"""The outermost layer: a span and a measurement per request, safe headers on responses."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from gateway import exception_handlers, responses
from gateway.errors import Code, Problem
from ledger.errors import LedgerError
from runtime import logs, metrics, telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

    from gateway.guard import GuardedRoute

log = logs.logger("gateway")

TRACE_ID = "relais.trace_id"
TRACEPARENT = "relais.traceparent"
_TRACE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_NO_STORE = (b"cache-control", b"no-store")


class Middleware:
    """Pure ASGI around the application: nothing is buffered, nothing is wrapped twice.

    `straight` are handlers by (method, path) that are called without the framework in between:
    half of what the busiest request costs would be layers that it has no use for.
    """

    def __init__(
        self, app: FastAPI, *, straight: Mapping[tuple[str, str], GuardedRoute] | None = None
    ) -> None:
        self.app = app
        self._straight = {
            name: (route, route.get_route_handler()) for name, route in (straight or {}).items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        traceparent, trace_id, is_valid = _given(scope)
        span = telemetry.span(
            "http.request",
            kind="server",
            parent=traceparent,
            attributes={"method": scope["method"]},
        )
        status = 500
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                has_started = True
                status = message["status"]
                headers = message["headers"]
                headers += responses.FIXED
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                headers.append((b"traceparent", span.traceparent.encode()))
                headers.append((b"x-trace-id", scope[TRACE_ID].encode()))
            await send(message)

        with span:
            scope[TRACEPARENT] = span.traceparent
            scope[TRACE_ID] = trace_id or span.trace_id
            try:
                if is_valid:
                    await self._answer(scope, receive, send_with_headers)
                else:
                    await _refuse_trace_id()(scope, receive, send_with_headers)
            except Exception as error:  # last resort: a bug is reported and logged, never hidden
                log.error("request.failed", exc_info=error, method=scope["method"])
                if has_started:
                    raise
                await _broken()(scope, receive, send_with_headers)
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                span.set(route=route, status=status)
                if status >= 500:
                    span.fail(f"answered {status}")
                metrics.requested(route=route, status=status, seconds=time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        straight = self._straight.get((scope["method"], scope["path"]))
        if straight is None:
            await self.app(scope, receive, send)
            return
        scope["app"] = self.app
        scope["route"], handler = straight
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except (Problem, LedgerError, SQLAlchemyError) as error:
            response = responses.refuse(exception_handlers.problem_of(request, error))
        await response(scope, receive, send)


def _given(scope: Scope) -> tuple[str | None, str | None, bool]:
    """(traceparent, X-Trace-ID, whether the latter may be kept).

    A broken traceparent starts a new trace, as W3C Trace Context asks for.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    trace_id = headers.get("x-trace-id")
    if trace_id is not None and not _TRACE_ID.fullmatch(trace_id):
        return None, None, False
    return telemetry.extract(headers), trace_id, True


def _broken() -> responses.ProblemResponse:
    return responses.refuse(
        Problem(
            Code.INTERNAL_ERROR,
            "An internal error occurred; the gateway's log has it under this trace_id.",
            remedy="Send the request again; if the error persists, tell the operators of Relais.",
        )
    )


def _refuse_trace_id() -> responses.ProblemResponse:
    return responses.refuse(
        Problem(
            Code.VALUE_INVALID,
            "X-Trace-ID is not valid.",
            field="X-Trace-ID",
            remedy="Use up to 128 letters, digits and any of ._:/+=@-",
        )
    )
