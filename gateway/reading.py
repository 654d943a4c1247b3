"""How much of what arrives is read in one round of the event loop.

The loop hands over whatever all connections have received before anything else gets a turn. Four
thousand heads in one instant (guessed keys, a restart of many clients) would keep everybody waiting
for a second. So a round reads for a few milliseconds; the rest waits in line, unread from its
socket, and health checks go first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from gateway.http_connection import HttpConnection

ROUND_S = 0.002  # of reading; answering what was read takes several times as long
FIRST = b"GET /health/live "


class Reading:
    """The line of connections whose data has arrived and is still to be read; one event loop."""

    def __init__(self) -> None:
        self._line: dict[HttpConnection, bytes] = {}  # in the order in which they came
        self._is_newest_next = False
        self._until: float | None = None  # monotonic; None: no round has begun

    def is_now(self, connection: HttpConnection, data: bytes) -> bool:
        """Whether `connection` may read `data` now; else `connection.read` is called later."""
        now = time.monotonic()
        if self._until is None:
            self._begin(connection.loop, now)
            return True
        if now < self._until and not self._line:
            return True
        before = self._line.get(connection)
        if before is None and data.startswith(FIRST):
            return True
        # Little for each: nothing more is received until this has been read.
        connection.transport.pause_reading()
        self._line[connection] = data if before is None else before + data
        return False

    def _begin(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._until = now + ROUND_S
        loop.call_soon(self._end, loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop has been round: read on, or wait for data."""
        if not self._line:
            self._until = None
            return
        self._begin(loop, time.monotonic())
        while self._line and time.monotonic() < (self._until or 0):
            connection, data = self._next()
            if not connection.transport.is_closing():
                connection.read(data)
                connection.read_on()

    def _next(self) -> tuple[HttpConnection, bytes]:
        """The oldest and the newest in turn: who comes after a crowd need not wait for it."""
        self._is_newest_next = not self._is_newest_next
        if self._is_newest_next:
            return self._line.popitem()
        oldest = next(iter(self._line))
        return oldest, self._line.pop(oldest)
