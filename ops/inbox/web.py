"""A small HTTP/1.1 server over h11: one connection, one request after the other.

It is here because an ASGI server with a framework costs more memory than the whole inbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
from pydantic_core import to_json

BODY_MAX_BYTES = 8_388_608
IDLE_S = 60.0
LINGER_S = 5.0
_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `path` is decoded, header names are lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first header called `name` (lower case), or nothing."""
        return next((value for known, value in self.headers if known == name), "")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: object, *, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(to_json(value), status=status)


def problem(status: int, detail: str) -> Response:
    """An error as problem+json (RFC 9457)."""
    body = to_json({"status": status, "detail": detail})
    return Response(body, status=status, content_type="application/problem+json")


def last_problem(status: int, detail: str) -> Response:
    """A problem after which the connection is of no more use."""
    answer = problem(status, detail)
    answer.headers["Connection"] = "close"
    return answer


class Connection:
    """Reads requests from one client and writes what `answer` makes of them."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Handler
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Answer until the client goes, is silent for IDLE_S, or speaks no HTTP."""
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    request = await self._request()
                if request is None:
                    return
                if isinstance(request, Response):
                    response = request
                else:
                    response = await self._answer(request)
                is_head = isinstance(request, Request) and request.method == "HEAD"
                await self._respond(response, is_head=is_head)
                if isinstance(request, Response):
                    await self._linger()
                    return
                if self._http.our_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._respond(
                    last_problem(error.error_status_hint, str(error)), is_head=False
                )
        except (ConnectionError, TimeoutError):
            return
        finally:
            self._writer.close()

    async def _request(self) -> Request | Response | None:
        """The next request; None: the client is gone; a Response: it asked for too much."""
        event = await self._event()
        if not isinstance(event, h11.Request):
            return None
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while isinstance(data := await self._event(), h11.Data):
            body += data.data
            if len(body) > BODY_MAX_BYTES:
                return last_problem(413, f"The body is larger than {BODY_MAX_BYTES} bytes.")
        if not isinstance(data, h11.EndOfMessage):
            return None
        target = urlsplit(event.target.decode("ascii", "replace"))
        return Request(
            method=event.method.decode(),
            path=unquote(target.path),
            query=dict(parse_qsl(target.query)),
            headers=[(name.decode(), value.decode("latin-1")) for name, value in event.headers],
            body=bytes(body),
        )

    async def _linger(self) -> None:
        """Let the client finish sending: closing on unread bytes would lose the answer."""
        self._writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await self._reader.read(_READ_BYTES):
                pass

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if not isinstance(event, type) or event is h11.PAUSED:
                return event
            self._http.receive_data(await self._reader.read(_READ_BYTES))

    async def _respond(self, response: Response, *, is_head: bool) -> None:
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            **response.headers,
        }
        self._send(h11.Response(status_code=response.status, headers=list(headers.items())))
        if not is_head:
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())
        await self._writer.drain()

    def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
