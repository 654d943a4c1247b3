"""Which workers the ledger knows to be alive, and whether Postgres answers at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ops.stack import processes
from ops.stack.wire import Connection, Row

_CONNECT_S = 3.0
# Several times the workers' own heartbeat: a busy machine is not a dead worker.
_ALIVE = """
SELECT queue, pid, host, colour FROM relais.workers WHERE seen_at > now() - interval '10 seconds'
"""


class Session(Protocol):
    """What is asked of a database connection; every failure is an OSError."""

    def query(self, sql: str) -> list[Row]:
        """The rows, every value as text."""

    def close(self) -> None:
        """End it."""


Dial = Callable[[], Session]


def to_own_server(url: str) -> Dial:
    """Connections to the stack's own Postgres."""
    return lambda: Connection(url, timeout_s=_CONNECT_S)


def to_foreign_server(url: str) -> Dial:
    """Connections to a database that the user runs, with all that its URL may ask for."""

    def dial() -> Session:
        from ops.stack.foreign import Foreign  # noqa: PLC0415 - a driver that is rarely needed

        return Foreign(url, connect_timeout_s=_CONNECT_S)

    return dial


class Presence:
    """Reads `relais.workers`; one connection and one answer for all who ask."""

    def __init__(self, dial: Dial, colour: str) -> None:
        """`dial` opens a connection."""
        self._dial = dial
        self._colour = colour
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._rows: set[tuple[str, int]] = set()
        self._read_at = float("-inf")

    def answers(self) -> bool:
        """Whether Postgres takes a new connection and answers SELECT 1."""
        try:
            session = self._dial()
            try:
                return session.query("SELECT 1") == [("1",)]
            finally:
                session.close()
        except OSError:
            return False

    def sees(self, queue: str, pid: int | None, *, age_max_s: float) -> bool:
        """Whether process `pid`, or one that it started, serves `queue`.

        The answer may be `age_max_s` old.
        """
        rows = self._alive(age_max_s)
        pids = {row_pid for row_queue, row_pid in rows if row_queue == queue}
        if pid is None or not pids:
            return False
        return pid in pids or not pids.isdisjoint(processes.family(pid))

    def close(self) -> None:
        """End the session, if there is one."""
        with self._lock:
            self._hang_up()

    def _alive(self, age_max_s: float) -> set[tuple[str, int]]:
        with self._lock:
            if time.monotonic() - self._read_at > age_max_s:
                self._rows = self._read()
                self._read_at = time.monotonic()
            return self._rows

    def _read(self) -> set[tuple[str, int]]:
        try:
            if self._session is None:
                self._session = self._dial()
            rows = self._session.query(_ALIVE)
        except OSError:
            self._hang_up()
            return set()
        here = (socket.gethostname(), self._colour)
        return {(str(queue), int(pid or 0)) for queue, pid, *where in rows if (*where,) == here}

    def _hang_up(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
