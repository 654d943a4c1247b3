"""Which workers the ledger knows to be alive, and whether Postgres answers at all."""

from __future__ import annotations

import socket
import threading
import time

import psycopg

from ops.stack import processes

_CONNECT_S = 3
# Several times the workers' own heartbeat: a busy machine is not a dead worker.
_FRESH_S = 10.0
_ALIVE = """
SELECT queue, pid FROM relais.workers
WHERE host = %s AND colour = %s AND seen_at > now() - make_interval(secs => %s)
"""


def libpq_url(url: str) -> str:
    """`url` without SQLAlchemy's way to name a driver, which means nothing to libpq."""
    _, _, rest = url.partition("://")
    return f"postgresql://{rest}"


class Presence:
    """Reads `relais.workers`; one connection and one answer for all who ask."""

    def __init__(self, url: str, colour: str) -> None:
        """`url` as libpq reads it."""
        self._url = libpq_url(url)
        self._colour = colour
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[str, int]] | None = None
        self._rows: set[tuple[str, int]] = set()
        self._read_at = float("-inf")

    def answers(self) -> bool:
        """Whether Postgres takes a new connection and answers SELECT 1."""
        try:
            with psycopg.connect(self._url, connect_timeout=_CONNECT_S) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
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
        """Close the connection."""
        with self._lock:
            self._drop()

    def _alive(self, age_max_s: float) -> set[tuple[str, int]]:
        with self._lock:
            if time.monotonic() - self._read_at > age_max_s:
                try:
                    self._rows = self._read()
                except psycopg.Error:
                    self._rows = set()
                    self._drop()
                self._read_at = time.monotonic()
            return self._rows

    def _read(self) -> set[tuple[str, int]]:
        if self._connection is None:
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=_CONNECT_S,
                application_name="relais-stack",
                options="-c statement_timeout=3000",
                keepalives_idle=5,
                tcp_user_timeout=5000,
            )
        parameters = (socket.gethostname(), self._colour, _FRESH_S)
        return set(self._connection.execute(_ALIVE, parameters).fetchall())

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
