"""A connection that speaks lines: bytes out, complete SMTP replies in.

It counts the replies that are due. Anything beyond them is unsolicited, and the connection is
closed before such a reply could be mistaken for the reply to the next command.

A reply has one deadline from the moment it is awaited, however slowly its bytes trickle in.
After any error the connection is not used again, so a late reply is never mistaken for another's.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from typing import TYPE_CHECKING, cast

from tasks.email.replies import Reply
from tasks.errors import SmtpError
from tasks.outbound import resolver

if TYPE_CHECKING:
    import ssl

LINE_MAX_BYTES = 2_048  # RFC 5321 allows 512; real relays are wordier
REPLY_MAX_LINES = 128
CHUNK_BYTES = 65_536
ADDRESSES_MAX = 4  # of a host, tried one after the other
LISTEN_TURNS = 64  # of the event loop: a ticket of TLS takes two

_LEFT = "the connection was closed"
_CLOSED = "the relay closed the connection"
_OUT_OF_TURN = "the relay sent an unsolicited reply"


class Broken(SmtpError):  # noqa: N818 - reads as the state it is
    """The connection closed, timed out or spoke no SMTP; `why` says which."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why[0].upper()}{why[1:]}.")
        self.why = why


class Wire(asyncio.Protocol):
    """One connection; replies are handed out in the order in which they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[str] = []  # of a reply that is not complete,
        self._code = b""  # and its code
        self._replies: deque[Reply] = deque()
        self._due = 1  # replies asked for and not yet complete; the greeting comes by itself
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False
        self.failure: Broken | None = None
        self.unasked: Reply | None = None  # the reply by which the relay sent an unsolicited reply
        self.transport: asyncio.Transport | None = None

    @property
    def is_usable(self) -> bool:
        """Open, every reply received, and nothing unread (usually a goodbye)."""
        return (
            self.failure is None
            and not self._replies
            and self._due == 0
            and self.transport is not None
            and not self.transport.is_closing()
            and not self._has_unread(self.transport)
        )

    async def connect(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        """Connect to the first address of `host` that responds, and shake hands; raises OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            addresses = (await resolver.system_resolve(host, port))[:ADDRESSES_MAX]
            failure: OSError = ConnectionError(f"{host} has no address")
            for address in addresses:
                try:
                    async with asyncio.timeout(timeout_s / len(addresses)):
                        connected = await _connected(address, port)
                except OSError as error:  # a timeout is one as well
                    failure = error
                    continue
                name = host if tls else None
                await loop.create_connection(
                    lambda: self, sock=connected, ssl=tls, server_hostname=name
                )
                return
            raise failure

    def bear_silence(self, seconds: float) -> None:
        """Break if what we send is not acknowledged by the other machine for this long (Linux).

        Its kernel does that; it says nothing about how fast the relay replies.
        """
        if self.transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            connected = self.transport.get_extra_info("socket")
            if connected.fileno() >= 0:
                connected.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000)
                )

    def write(self, data: bytes, *, asks: int) -> None:
        """Send `data` now, which `asks` for this many replies.

        Raises Broken if the connection is closed, so that it did not go out.
        """
        if self.failure is not None:
            raise self.failure
        if self.transport is None or self.transport.is_closing():
            raise self._break(_CLOSED)
        self._due += asks
        self.transport.write(data)

    async def listen(self) -> None:
        """Read what has arrived by now, down to the socket's buffer.

        Raises Broken if that is the end, or more than was asked for.
        """
        for _ in range(LISTEN_TURNS):
            if self.failure is not None:
                raise self.failure
            if self.transport is None or self.transport.is_closing():
                raise self._break(_CLOSED)
            if not self._has_unread(self.transport):
                return
            await asyncio.sleep(0)
        raise self._break(_OUT_OF_TURN)

    async def write_all(self, data: bytes, *, chunk_timeout_s: float) -> None:
        """Send `data` in chunks; the relay must take each within `chunk_timeout_s`."""
        for start in range(0, len(data), CHUNK_BYTES):
            self.write(data[start : start + CHUNK_BYTES], asks=0)
            if self._is_paused:
                self._room = asyncio.get_running_loop().create_future()
                await self._wait(self._room, chunk_timeout_s, "the relay accepts no more data")

    async def reply(self, *, timeout_s: float) -> Reply:
        """The next complete reply; raises Broken."""
        if not self._replies:
            if self.failure is not None:
                raise self.failure
            self._waiter = asyncio.get_running_loop().create_future()
            await self._wait(self._waiter, timeout_s, "the relay did not reply in time")
        return self._replies.popleft()

    async def start_tls(self, context: ssl.SSLContext, *, host: str, timeout_s: float) -> None:
        """Continue under TLS. Anything received before the handshake cannot be trusted."""
        if self.failure is not None:
            why = self.failure.why if self.unasked is None else _OUT_OF_TURN
            why += " before TLS"
            raise Broken(why)
        if self.transport is None:
            raise self._break(_CLOSED)
        transport = await asyncio.get_running_loop().start_tls(
            self.transport, self, context, server_hostname=host, ssl_handshake_timeout=timeout_s
        )
        if transport is None:
            raise self._break(_CLOSED)
        self.transport = transport

    def finish(self, last_words: bytes) -> None:
        """Send what is in the buffers and `last_words`, then close."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(last_words)
            self.transport.close()
        if self.failure is None:
            self.failure = Broken(_LEFT)

    def close(self) -> None:
        """Hang up, without waiting for what is still in the buffers."""
        if self.failure is None:
            self.failure = Broken(_LEFT)
        if self.transport is not None:
            self.transport.abort()

    def break_off(self, why: str) -> None:
        """Close at once; whatever waits for a reply gets the reason."""
        self._break(why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: connected."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop: the connection is gone."""
        self._break(f"the connection broke ({exc})" if exc else _CLOSED)

    def eof_received(self) -> bool:
        """Called by the event loop: the relay will send nothing more."""
        self._break(_CLOSED)
        return False

    def pause_writing(self) -> None:
        """Called by the event loop: the buffers are full."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Called by the event loop: the buffers have room."""
        self._is_paused = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: split `data` into lines, lines into replies."""
        if self.failure is not None:
            return
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            if not self._take(line):
                return
        if len(self._buffer) > LINE_MAX_BYTES:
            self._break("the relay sent an endless line")
        elif self._due == 0 and (self._buffer or self._lines):
            self._break(_OUT_OF_TURN)

    def _take(self, line: bytes) -> bool:
        code, separator = line[:3], line[3:4]
        is_code = len(code) == 3 and code.isdigit() and b"200" <= code <= b"599"
        is_reply = is_code and separator in (b" ", b"-", b"")
        is_of_one_piece = not self._lines or code == self._code
        if (
            not (is_reply and is_of_one_piece)
            or len(line) > LINE_MAX_BYTES
            or len(self._lines) >= REPLY_MAX_LINES
        ):
            self._break("the relay sent something that is not an SMTP reply")
            return False
        self._code = code
        self._lines.append(line[4:].decode("utf-8", "replace"))
        return separator == b"-" or self._complete(Reply(int(code), tuple(self._lines)))

    def _complete(self, reply: Reply) -> bool:
        self._lines = []
        if self._due == 0:
            self.unasked = reply
            self._break(f"{_OUT_OF_TURN} ({reply.text})")
            return False
        self._due -= 1
        self._replies.append(reply)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    @staticmethod
    def _has_unread(transport: asyncio.Transport) -> bool:
        """Whether the socket has something to read, if only the end; costs no turn of the loop."""
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def _wait(self, future: asyncio.Future[None], timeout_s: float, why: str) -> None:
        timer = asyncio.get_running_loop().call_later(timeout_s, self._break, why)
        try:
            await future
        finally:
            timer.cancel()

    def _break(self, why: str) -> Broken:
        """Give the connection up, once; whatever waits on it gets the reason."""
        if self.failure is None:
            self.failure = Broken(why)
            if self.transport is not None:
                self.transport.abort()
        for future in (self._waiter, self._room):
            if future is not None and not future.done():
                future.set_exception(self.failure)
        return self.failure


async def _connected(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made
