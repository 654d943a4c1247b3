"""Proof that a process is alive: a session advisory lock that Postgres frees when it dies.

A thread of its own holds the connection, so that neither a busy event loop nor a long handler
can look like a death. The thread also prolongs leases and notices requests to cancel.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg

from ledger import database, ids
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.settings import Settings

log = logs.logger("presence")

RECONNECT_S = 0.25  # well within the time after which a silent worker counts as dead
REGISTER = """
INSERT INTO relais.workers (id, name, queue, colour, version, host, pid, lock_key,
    lease_until)
VALUES (%(id)s, %(name)s, %(queue)s, %(colour)s, %(version)s, %(host)s, %(pid)s, %(lock_key)s,
    clock_timestamp() + %(lease_s)s * interval '1 second')
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(),
    lease_until = excluded.lease_until
"""
CANCELS = """
SELECT id, attempt FROM relais.jobs
WHERE owner = %s AND state = 'running' AND cancel_requested_at IS NOT NULL
"""
EXTEND = """
UPDATE relais.jobs SET lease_until = clock_timestamp() + %(lease_s)s * interval '1 second'
WHERE owner = %(owner)s AND state = 'running'
"""


class Presence:
    """One process's proof of life; `owner` is the name under which it claims."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: str,
        on_cancel: Callable[[list[tuple[UUID, int]]], None] | None = None,
    ) -> None:
        """`on_cancel` is called, from the thread, with running jobs that should stop."""
        self.owner = ids.new()
        self.name = f"{queue}-{settings.colour}@{socket.gethostname()}:{os.getpid()}"
        self.connected_at = 0.0  # monotonic; changes with every new connection
        self._settings = settings
        self._queue = queue
        self._on_cancel = on_cancel
        self._last_beat = 0.0
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    @property
    def lock_key(self) -> int:
        """The advisory lock that proves this process alive (signed 64 bit)."""
        return int.from_bytes(self.owner.bytes[8:], signed=True)

    def start(self, *, timeout_s: float | None = 10.0) -> bool:
        """Start the thread; True when Postgres knows of this process within `timeout_s`."""
        self._thread.start()
        return self._ready.wait(timeout_s)

    def stop(self) -> None:
        """Sign off: the row goes, the lock is freed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def still_owned(self) -> bool:
        """Whether our claims cannot have been taken over, by the monotonic clock.

        Checked right before what cannot be undone. The lock is retaken after a short break, so a
        beat within the reclaimer's two looks is proof enough; a frozen process fails this.
        """
        age_s = time.monotonic() - self._last_beat
        return age_s < min(self._settings.lease_s, self._allowed_silence_s())

    def _allowed_silence_s(self) -> float:
        return max(5 * self._settings.heartbeat_s, self._settings.lease_s / 2)

    def _run(self) -> None:
        try:
            self._prove_life()
        except BaseException as error:
            # A process that cannot prove its life would be robbed of every job it claims.
            log.error("presence.broken", exc_info=error)
            os._exit(os.EX_SOFTWARE)

    def _prove_life(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                with self._connect() as connection:
                    failures = 0
                    self._beat_until_stopped(connection)
            except psycopg.Error as error:
                failures += 1
                if failures in {1, 10, 100}:
                    log.warning("presence.lost", error=type(error).__name__, failures=failures)
            self._stop.wait(RECONNECT_S)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            database.libpq_url(self._settings.require_database_url()),
            autocommit=True,
            connect_timeout=3,
            application_name=f"relais presence {self._queue}",
            keepalives_idle=2,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=5000,
            options="-c statement_timeout=5000",
        )

    def _beat_until_stopped(self, connection: psycopg.Connection) -> None:
        connection.execute("SELECT pg_advisory_lock(%s)", (self.lock_key,))
        self.connected_at = time.monotonic()
        while True:
            self._beat(connection)
            self._ready.set()
            if self._stop.wait(self._settings.heartbeat_s):
                break
        with suppress(psycopg.Error):
            connection.execute("DELETE FROM relais.workers WHERE id = %s", (self.owner,))

    def _beat(self, connection: psycopg.Connection) -> None:
        started = time.monotonic()
        settings = self._settings
        connection.execute(
            REGISTER,
            {
                "id": self.owner,
                "name": self.name,
                "queue": self._queue,
                "colour": settings.colour,
                "version": settings.version,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "lock_key": self.lock_key,
                "lease_s": settings.lease_s,
            },
        )
        connection.execute(EXTEND, {"owner": self.owner, "lease_s": settings.lease_s})
        self._last_beat = started  # what was true when the beat began
        if self._on_cancel is not None:
            asked = connection.execute(CANCELS, (self.owner,)).fetchall()
            if asked:
                self._on_cancel([(row[0], row[1]) for row in asked])
