"""What arrives in one instant is read in bounded rounds: health checks first, nobody last for ever."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from gateway import reading
from gateway.reading import Reading
from tests.waiting import wait_for

if TYPE_CHECKING:
    from gateway.http_connection import HttpConnection


class Transport:
    """Of a connection that receives only what a test hands it."""

    def __init__(self) -> None:
        self.is_paused = self.is_over = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def is_closing(self) -> bool:
        return self.is_over


class Connection:
    """Notes what it reads, and takes its time."""

    def __init__(self, line: Reading, notes: list[bytes], *, takes_s: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport = Transport()
        self._line = line
        self._notes = notes
        self._takes_s = takes_s

    def receive(self, data: bytes) -> None:
        if self._line.is_now(cast("HttpConnection", self), data):
            self.read(data)

    def read(self, data: bytes) -> None:
        time.sleep(self._takes_s)
        self._notes.append(data)

    def read_on(self) -> None:
        self.transport.is_paused = False


async def test_a_crowd_is_read_in_rounds_and_health_checks_go_first() -> None:
    line, notes = Reading(), list[bytes]()
    crowd = [Connection(line, notes, takes_s=reading.ROUND_S / 4) for _ in range(50)]
    for number, connection in enumerate(crowd):
        connection.receive(b"GET /%d" % number)
    assert len(notes) < 10
    assert sum(connection.transport.is_paused for connection in crowd) == 50 - len(notes)
    late = Connection(line, notes)
    late.receive(b"GET /health/live HTTP/1.1")
    assert notes[-1].startswith(b"GET /health/live")
    newest = Connection(line, notes)
    newest.receive(b"GET /newest")
    await wait_for(lambda: len(notes) == 52, what="the whole line")
    assert notes.index(b"GET /newest") < 20
    assert not any(connection.transport.is_paused for connection in (*crowd, newest))
    # Nobody waits any more: what comes now is read at once.
    crowd[0].receive(b"GET /again")
    assert notes[-1] == b"GET /again"


async def test_a_connection_is_read_in_order_and_not_after_it_has_gone() -> None:
    line, notes = Reading(), list[bytes]()
    slow = Connection(line, notes, takes_s=2 * reading.ROUND_S)
    slow.receive(b"slow")
    one, gone = Connection(line, notes), Connection(line, notes)
    one.receive(b"POST /")
    gone.receive(b"never")
    one.receive(b"GET /health/live as a part of a body")
    gone.transport.is_over = True
    await wait_for(lambda: len(notes) == 2, what="the line")
    await asyncio.sleep(0)
    assert notes == [b"slow", b"POST /GET /health/live as a part of a body"]
