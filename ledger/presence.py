"""Proof that a process is alive: a session advisory lock that Postgres frees when it dies.

A separate thread holds the connection, so that neither a busy event loop nor a long handler
can look like a death. The thread also extends the leases of the jobs that the engine holds, and
notices requests to cancel them. Every connection takes its own lock, whose key is in
`relais.workers`: a session that the server still keeps for a dead connection blocks no one.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from ledger import ids, pooler, statements
from ledger.errors import UnfitDatabase
from ledger.session import BriefSession, expressions, parameters
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runtime.settings import Settings

Fence = tuple[UUID, int]

log = logs.logger("presence")

RECONNECT_S = 0.25  # well below the time after which a silent worker counts as dead
REFUSED_S = 5.0  # the configuration has to be changed first
SESSION = {
    "statement_timeout": 4_000,
    # So that the server notices within seconds that the client is gone.
    "tcp_keepalives_idle": 2,
    "tcp_keepalives_interval": 1,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}
SQL = {
    name: statements.for_psycopg(statement)
    for name, statement in {
        **statements.load(Path(__file__).with_suffix(".sql")),
        **{name: statements.TRANSITIONS[name] for name in ("extend_leases", "asked_to_stop")},
    }.items()
}


class Presence:
    """One process's proof of life; `owner` is the name under which it claims."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: str,
        kinds: Sequence[str] = (),
        held: Callable[[], list[Fence] | None] | None = None,
        on_cancel: Callable[[list[Fence]], None] | None = None,
    ) -> None:
        """`kinds` are those that this process knows; `held` returns what it holds at this moment.

        It returns None if the process is unresponsive: then no lease is extended, not even its own.
        Both `held` and `on_cancel`, which is called with the jobs that should stop, are called from
        the thread.
        """
        self.owner = ids.new()
        self.name = f"{queue}-{settings.colour}@{socket.gethostname()}:{os.getpid()}"
        self.connected_at = 0.0  # monotonic; changes with every new connection
        self.lock_key = 0  # of the present connection
        self._settings = settings
        self._queue = queue
        self._kinds = list(kinds)
        self._held = held
        self._on_cancel = on_cancel
        self._last_beat = float("-inf")
        self._is_connected = False
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self, *, timeout_s: float | None = 10.0) -> bool:
        """Start the thread; True when Postgres knows of this process within `timeout_s`."""
        self._thread.start()
        return self._ready.wait(timeout_s)

    def stop(self) -> None:
        """Sign off: the lock is released, and the row removed unless it still owns something."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def still_owned(self) -> bool:
        """Whether our claims cannot have been taken over, by the monotonic clock.

        Check this right before anything irreversible. The lock is retaken after a short break, so a
        heartbeat between the reclaimer's two checks is proof enough; a frozen process fails this,
        and so does one that never proved that it is alive.
        """
        age_s = time.monotonic() - self._last_beat
        return age_s < min(self._settings.lease_s, self._allowed_silence_s())

    def may_claim(self) -> bool:
        """Whether claims made now have a live owner, so that no check reclaims them."""
        return self._is_connected and self.still_owned()

    def _allowed_silence_s(self) -> float:
        return max(5 * self._settings.heartbeat_s, self._settings.lease_s / 2)

    def _run(self) -> None:
        try:
            self._prove_life()
        except BaseException as error:
            # A process that cannot prove that it is alive would lose every job it claims.
            log.error("presence.broken", exc_info=error)
            os._exit(os.EX_SOFTWARE)

    def _prove_life(self) -> None:
        failures = 0
        while not self._stop.is_set():
            pause_s = RECONNECT_S
            began_at = self.connected_at
            try:
                with closing(self._connect()) as connection:
                    self._beat_until_stopped(connection)
            except (psycopg.Error, UnfitDatabase) as error:
                failures = 1 if self.connected_at != began_at else failures + 1
                if isinstance(error, UnfitDatabase):
                    pause_s = REFUSED_S
                    log.error("presence.refused", reason=str(error))
                elif failures in {1, 10, 100}:
                    log.warning("presence.lost", error=type(error).__name__, failures=failures)
            finally:
                self._is_connected = False
            self._stop.wait(pause_s)

    def _connect(self) -> BriefSession:
        """A session that is ours alone, within limits."""
        url = self._settings.require_direct_database_url()
        told = parameters(url, application_name=f"relais presence {self._queue}")
        told |= {"keepalives_idle": 2, "keepalives_interval": 1, "tcp_user_timeout": 5_000}
        connection = BriefSession.connect(**told | {"connect_timeout": 3}, autocommit=True)
        try:
            pooler.refuse_shared_session(connection, url)
            connection.execute(f"SELECT {expressions(SESSION, is_local='false')}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _beat_until_stopped(self, connection: BriefSession) -> None:
        self.lock_key = int.from_bytes(secrets.token_bytes(8), signed=True)
        connection.execute("SELECT pg_advisory_lock(%s)", (self.lock_key,))
        pid = pooler.pid(connection)
        while True:
            self._beat(connection, pid)
            if not self._is_connected:
                self.connected_at = time.monotonic()
                self._is_connected = True
            self._ready.set()
            if self._stop.wait(self._settings.heartbeat_s):
                break
        with suppress(psycopg.Error):
            connection.execute(SQL["sign_off"], {"id": self.owner})

    def _beat(self, connection: BriefSession, pid: int) -> None:
        started = time.monotonic()
        held = self._held() if self._held is not None else []
        lease_s = 0.0 if held is None else self._settings.lease_s
        row = connection.execute(SQL["register"], self._described(lease_s=lease_s)).fetchone()
        if row != (pid,):
            raise pooler.shared()  # the lock is in a different session
        fences: dict[str, Any] = {
            "ids": [job_id for job_id, _ in held or ()],
            "attempts": [attempt for _, attempt in held or ()],
        }
        if held:
            connection.execute(SQL["extend_leases"], {**fences, "lease_s": self._settings.lease_s})
        self._last_beat = started  # as of when the heartbeat began
        if held and self._on_cancel is not None:
            asked = connection.execute(SQL["asked_to_stop"], fences).fetchall()
            if asked:
                self._on_cancel([(row[0], row[1]) for row in asked])

    def _described(self, *, lease_s: float) -> dict[str, Any]:
        return {
            "id": self.owner,
            "name": self.name,
            "queue": self._queue,
            "colour": self._settings.colour,
            "version": self._settings.version,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "lock_key": self.lock_key,
            "kinds": self._kinds,
            "lease_s": lease_s,
        }
