"""A client's connection: uvicorn's HTTP/1.1, with limits on everything before a complete request.

Heads and trailers have a size limit, a head has a time limit, and pipelined requests are limited in
number. A client that breaks a limit gets a problem, if that is still possible, and is disconnected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway import responses
from gateway.errors import Code, Problem
from gateway.open_connections import Waits
from runtime import metrics

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Receive, Scope, Send
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gateway.open_connections import OpenConnections
    from gateway.reading import Reading

HEAD_MAX_BYTES = 32_768  # of all headers of a request, and of its trailers
HEADERS_MAX = 100
URL_MAX_BYTES = 8_192
PIPELINED_MAX = 16  # requests that wait for the response to an earlier one
LIVE = b"/health/live"
RETRY_AFTER_S = "2"


class HttpConnection(HttpToolsProtocol):
    """One connection; `connections` are all of them, `reading` is their line."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - uvicorn's
        connections: OpenConnections,
        reading: Reading,
        **kwargs: Any,  # noqa: ANN401 - uvicorn's
    ) -> None:
        super().__init__(*args, **kwargs)
        self._reading = reading
        self.waits: Waits | None = None
        self._open = connections
        self._ours = self.app
        self._unfinished_bytes = 0  # since the last head, piece of a body or end of a request
        self._is_in_head = True
        self._headers = 0
        self._headers_bytes = 0
        self._refused: Problem | None = None
        self._is_over = False  # nothing more is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit it, or refuse it if there is no room."""
        super().connection_made(transport)
        if not self._open.opened(self, self.client[0] if self.client else None):
            self._end_with(_no_room())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._open.closed(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the other half open for the response to a request that has arrived in full."""
        cycle = self._unanswered()
        if cycle is None or cycle.more_body:
            return False
        cycle.keep_alive = False
        self._is_over = True
        return True

    def data_received(self, data: bytes) -> None:
        """Read it now, or in one of the next rounds of the event loop."""
        if self._reading.is_now(self, data):
            self.read(data)

    def read_on(self) -> None:
        """Receive more, unless the application has yet to take what is there."""
        if not (self.flow.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def read(self, data: bytes) -> None:
        """Parse the data piece by piece, so that nothing is kept before it is measured."""
        for start in range(0, len(data), HEAD_MAX_BYTES):
            if self._is_over:
                return
            piece = data[start : start + HEAD_MAX_BYTES]
            self._unfinished_bytes += len(piece)
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                self._stay_with_http(piece[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._end_with(self._refused or _malformed())
            else:
                if self._unfinished_bytes > HEAD_MAX_BYTES:
                    self._end_with(_too_large())
        if self.waits is Waits.NEXT:
            self._open.waits(self, Waits.HEAD)

    def overdue(self, state: Waits) -> None:
        """Close it: the client has kept the gateway waiting for too long."""
        if state is Waits.HEAD and self._unfinished_bytes:
            self._end_with(_too_slow())
        elif state is Waits.NEXT:
            self.transport.close()
            self._open.waits(self, Waits.END)
        else:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head = True
        self._headers = self._headers_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        super().on_url(url)
        if len(self.url) > URL_MAX_BYTES:
            self._refuse(_long_url())

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is ignored."""
        self._headers += 1
        self._headers_bytes += len(name) + len(value) + 4
        if self._headers > HEADERS_MAX or self._headers_bytes > HEAD_MAX_BYTES:
            self._refuse(_too_large())
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: the request is processed."""
        self._is_in_head = False
        self._unfinished_bytes = 0
        if len(self.pipeline) >= PIPELINED_MAX:
            self._refuse(_malformed())
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._refuse(_malformed())  # RFC 9112, 3.2: whose request it is must be clear
        self._open.works(self)
        is_refused = self._open.are_busy and self.url.partition(b"?")[0] != LIVE
        self.app = _busy if is_refused else self._ours
        if version == "1.0":
            self.expect_100_continue = False  # such a client knows no 1xx (RFC 9110, 10.1.1)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unfinished_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unfinished_bytes = 0
        if not (self.parser.should_upgrade() and self._framing()):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response was sent; uvicorn continues with the next request, or waits for one."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._open.waits(self, Waits.END)
        elif self.cycle.response_complete:
            self._unset_keepalive_if_required()  # that time is kept by `OpenConnections`
            self._open.waits(self, Waits.TAKEN if self.flow.write_paused else Waits.NEXT)

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        super().pause_writing()
        self._open.waits(self, Waits.TAKEN)

    def resume_writing(self) -> None:
        """The client has read it."""
        super().resume_writing()
        if self.waits is Waits.TAKEN:
            if self._unanswered() is not None:
                self._open.works(self)
            else:
                self._open.waits(self, Waits.END if self.transport.is_closing() else Waits.NEXT)

    def _unanswered(self) -> RequestResponseCycle | None:
        """The last request that has begun, if its response is not complete."""
        cycle: RequestResponseCycle | None = self.cycle
        return None if cycle is None or cycle.response_complete else cycle

    def _refuse(self, problem: Problem) -> None:
        """Raised from a parser's callback, which ends the parsing."""
        self._refused = problem
        raise problem

    def _framing(self) -> bytes:
        """The headers that say where the body ends; empty if there is none."""
        return b"".join(
            b"%s: %s\r\n" % (name, value)
            for name, value in self.headers
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t"))
        )

    def _stay_with_http(self, rest: bytes) -> None:
        """Answer as if no other protocol had been requested, then close.

        The parser stops before the body. Clients that would rather speak HTTP/2 send it all the
        same (Java's does so by default), so another parser reads it.
        """
        framing = self._framing()
        if not framing:
            self._read_no_more()
            return
        self.cycle.keep_alive = False
        self.parser = httptools.HttpRequestParser(_BodyOnly(self))
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % framing)
            self.parser.feed_data(rest)
        except httptools.HttpParserError:
            self._end_with(self._refused or _malformed())

    def body_over(self) -> None:
        """The body of a request that wanted another protocol is complete."""
        self.on_message_complete()
        self._read_no_more()

    def _read_no_more(self) -> None:
        """Answer the requests that have arrived, and close."""
        self._is_over = True
        cycle = self._unanswered()
        if cycle is not None:
            cycle.keep_alive = False

    def _end_with(self, problem: Problem) -> None:
        """Tell the client why, unless it is waiting for another response first, and close."""
        self._read_no_more()
        cycle = self._unanswered()
        if cycle is not None:
            if not cycle.more_body:
                return  # earlier requests are answered; then it is closed
            if self.pipeline or cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True  # for whoever reads this body
            cycle.message_event.set()
        answer = responses.refuse(problem)
        metrics.requested(route="unmatched", status=answer.status_code, seconds=0.0)
        headers = [*self.server_state.default_headers, *answer.raw_headers, *responses.FIXED]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(
            b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)])
        )
        # If it were closed with unread bytes it would be reset, and the client might never see why:
        # what it still sends is discarded for a moment.
        self.transport.write_eof()
        self._open.waits(self, Waits.END)


class _BodyOnly:
    """What a parser reports that reads one body, whose head another one has read."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._is_over = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._connection.on_header(name, value)

    def on_body(self, body: bytes) -> None:
        if not self._is_over:
            self._connection.on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.body_over()


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await responses.refuse(_no_room())(scope, receive, send)


def _no_room() -> Problem:
    return Problem(
        Code.GATEWAY_BUSY,
        "The gateway is already handling as many requests as it may.",
        remedy="Send the request again in a few seconds; keep fewer connections open.",
        headers={"Connection": "close", "Retry-After": RETRY_AFTER_S},
    )


def _malformed() -> Problem:
    return Problem(
        Code.REQUEST_MALFORMED,
        "The request is not valid HTTP/1.1 (RFC 9112).",
        remedy="Check its first line, its headers (one Host above all) and its Content-Length.",
        headers={"Connection": "close"},
    )


def _long_url() -> Problem:
    return Problem(
        Code.URL_TOO_LONG,
        f"The URL is longer than {URL_MAX_BYTES} bytes.",
        remedy="Ask for less in one request.",
        headers={"Connection": "close"},
    )


def _too_large() -> Problem:
    return Problem(
        Code.HEADERS_TOO_LARGE,
        f"The request has more than {HEADERS_MAX} headers and trailers, or more than "
        f"{HEAD_MAX_BYTES} bytes of them.",
        remedy="Send fewer or shorter ones.",
        headers={"Connection": "close"},
    )


def _too_slow() -> Problem:
    return Problem(
        Code.HEADERS_TOO_SLOW,
        "The headers of the request did not arrive in time.",
        remedy="Send the request again.",
        headers={"Connection": "close"},
    )
