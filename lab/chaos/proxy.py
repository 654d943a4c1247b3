"""A small TCP proxy that misbehaves on request: refuse, delay, swallow, cut, and spring traps.

A trap watches one direction for a pattern. When the pattern comes by, its bytes are held while
the trap's callback runs (kill the client, say), and then forwarded, dropped, or dropped with the
connection. So a process can be killed between two bytes without a hook in the product.

Where it swallows, a connection is half-open: not even its end comes through, until it is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable

Direction = Literal["up", "down"]  # up: to the server
Verdict = Literal["forward", "drop", "cut", "forward and cut", "silence"]
Deed = Literal["up", "down", "delayed", "swallowed", "refused", "unreached", "gave way"]

CHUNK_BYTES = 65_536
CARRY_BYTES = 64  # of the bytes before, so that a pattern may straddle two reads
MEMORY_BYTES = 32_768  # of what the server said since `forgets` came by
RESET = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Link:
    """One client's connection through the proxy."""

    client_port: int
    up: asyncio.StreamWriter
    down: asyncio.StreamWriter
    hello: bytes = b""  # the first bytes of the client
    is_silent: bool = False  # half-open: nothing comes through any more
    is_cut: asyncio.Event = field(default_factory=asyncio.Event)
    said: bytearray = field(default_factory=bytearray)  # by the server, lately
    tails: dict[str, bytes] = field(default_factory=lambda: {"up": b"", "down": b""})

    def cut(self) -> None:
        """Reset both sides."""
        self.is_cut.set()
        for writer in (self.up, self.down):
            _reset(writer)

    def abandon(self) -> None:
        """Reset the client's side only; what is on its way to the server still gets there."""
        _reset(self.down)


@dataclass(eq=False)
class Trap:
    """What to do when `pattern` comes by; `after`: only where the server has said that before.

    Springs `times` times. `concerns` may wave a connection through.
    """

    direction: Direction
    pattern: re.Pattern[bytes]
    verdict: Verdict = "forward"
    after: re.Pattern[bytes] | None = None
    times: int = 1
    concerns: Callable[[Link], bool] | None = None
    callback: Callable[[Link], Awaitable[None]] | None = None
    sprung: asyncio.Event = field(default_factory=asyncio.Event)
    count: int = 0

    def matches(self, link: Link, direction: Direction, chunk: bytes) -> bool:
        """Whether it springs on `chunk`."""
        return (
            self.count < self.times
            and direction == self.direction
            and self._is_in(chunk, link.tails[direction])
            and (self.after is None or self.after.search(bytes(link.said)) is not None)
            and (self.concerns is None or self.concerns(link))
        )

    def _is_in(self, chunk: bytes, tail: bytes) -> bool:
        """Whether the pattern ends in `chunk`; what came by before does not count again."""
        return any(found.end() > len(tail) for found in self.pattern.finditer(tail + chunk))


class Proxy:
    """Forwards `host`:`port` to 127.0.0.1:`target_port`."""

    def __init__(
        self,
        target_port: int,
        *,
        forgets: re.Pattern[bytes] | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.target_port = target_port
        self.host = host
        self.port = 0
        self.is_refusing = False
        self.is_swallowing = False
        self.delay_s = 0.0
        self.cut_after_bytes: int | None = None  # of all traffic; counts down, then cuts once
        self.traps: list[Trap] = []
        self.links: set[Link] = set()
        self.tally: Counter[Deed] = Counter()  # what was done to how many chunks or connections
        self._forgets = forgets
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more and cut every connection."""
        if self._server is not None:
            self._server.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        """Behave."""
        self.stop_swallowing()
        self.is_refusing = False
        self.delay_s = 0.0
        self.cut_after_bytes = None
        self.traps.clear()

    def stop_swallowing(self) -> None:
        """Cut what is half-open; it is of no use any more."""
        for link in list(self.links):
            if self._is_half_open(link):
                link.cut()
        self.is_swallowing = False

    def refuse(self) -> None:
        """Cut every connection and take no new ones."""
        self.is_refusing = True
        self.cut_all()

    def cut_all(self) -> None:
        """Reset every connection."""
        for link in list(self.links):
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self.is_refusing:
            self.tally["refused"] += 1
            _reset(writer)
            return
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self.tally["unreached"] += 1
            _reset(writer)
            return
        link = Link(writer.get_extra_info("peername")[1], forth, writer)
        self.links.add(link)
        try:
            ways = (self._pump(reader, link, "up"), self._pump(back, link, "down"))
            await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):
            link.cut()
        finally:
            self.links.discard(link)
            for end in (writer, forth):
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, link: Link, way: Direction) -> None:
        try:
            await self._forward(reader, link, way)
        except OSError:
            if not self._is_half_open(link):
                raise
        if self._is_half_open(link):
            await link.is_cut.wait()
            return
        writer = link.up if way == "up" else link.down
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()

    async def _forward(self, reader: asyncio.StreamReader, link: Link, way: Direction) -> None:
        writer = link.up if way == "up" else link.down
        while chunk := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                self.tally["delayed"] += 1
                await asyncio.sleep(self.delay_s)
            if way == "up":
                link.hello = link.hello or chunk
            verdict: Verdict = "silence"
            if not self._is_half_open(link):
                verdict = await self._spring(link, way, chunk)
                link.is_silent = verdict == "silence"
            if verdict == "silence":
                self.tally["swallowed"] += 1
                continue
            self.tally[way] += 1
            link.tails[way] = (link.tails[way] + chunk)[-CARRY_BYTES:]
            if way == "down":
                self._remember(link, chunk)
            if verdict.startswith("forward") and not self._has_run_out(len(chunk)):
                writer.write(chunk)
                await writer.drain()
            elif verdict == "forward":
                verdict = "cut"
            if verdict.endswith("cut"):
                link.cut()
                return

    def _is_half_open(self, link: Link) -> bool:
        return link.is_silent or self.is_swallowing

    async def _spring(self, link: Link, way: Direction, chunk: bytes) -> Verdict:
        for trap in list(self.traps):
            if trap.matches(link, way, chunk):
                trap.count += 1
                if trap.callback is not None:
                    await trap.callback(link)
                trap.sprung.set()
                if trap.verdict != "forward":
                    return trap.verdict
        return "forward"

    def _remember(self, link: Link, chunk: bytes) -> None:
        if self._forgets is None:
            return
        link.said += chunk
        ends = [match.end() for match in self._forgets.finditer(link.said)]
        if ends:
            del link.said[: ends[-1]]
        elif len(link.said) > MEMORY_BYTES:
            del link.said[:-MEMORY_BYTES]

    def _has_run_out(self, size: int) -> bool:
        """Whether these bytes are the ones that the wire gives way under."""
        if self.cut_after_bytes is None:
            return False
        self.cut_after_bytes -= size
        if self.cut_after_bytes > 0:
            return False
        self.cut_after_bytes = None
        self.tally["gave way"] += 1
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the other side learns at once, and no farewell is sent."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
