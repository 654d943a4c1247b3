"""Responses as bytes: JSON by pydantic-core, problems as application/problem+json."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from starlette.responses import Response

from gateway.errors import TooLarge
from runtime import telemetry

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from gateway.errors import Problem

LINGER_S = 2.0
LINGER_MAX_BYTES = 16_777_216
FIXED = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class JsonResponse(Response):
    """JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - any JSON
        """`content` as JSON; datetimes, UUIDs and models included."""
        return content if isinstance(content, bytes) else to_json(content, inf_nan_mode="null")


class ProblemResponse(JsonResponse):
    """A problem (RFC 9457)."""

    media_type = "application/problem+json"


class LingeringResponse(ProblemResponse):
    """A problem that is sent at once, to a client that is still sending.

    A connection that is closed over unread bytes is reset, and the client might never see why. So
    its bytes are taken for a moment after the answer, and thrown away.
    """

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Respond, discard what still arrives, then end."""
        start: Message = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while taken < LINGER_MAX_BYTES:
                    message = await receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def refuse(problem: Problem) -> ProblemResponse:
    """The response for `problem`."""
    document = problem.document()
    ids = telemetry.current_ids()
    if ids is not None:
        document["trace_id"] = ids[0]
    kind = LingeringResponse if isinstance(problem, TooLarge) else ProblemResponse
    return kind(document, status_code=problem.status, headers=problem.headers)
