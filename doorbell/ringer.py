"""Ringing: a Celery message with a job id, sent after the commit, off every critical path.

Losing, repeating, delaying or forging a doorbell is harmless, so ringing never blocks and never
raises. Rings of one queue are coalesced: a worker that is awake claims from the ledger until
nothing is left, so a few doorbells wake it as surely as a thousand.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from doorbell.broker import celery_app
from runtime import logs, metrics

if TYPE_CHECKING:
    from celery import Celery
    from kombu.connection import Connection

    from runtime.settings import Settings

log = logs.logger("doorbell")

MIN_GAP_S = 0.01  # between two bursts of one queue
BURST_MAX = 8  # doorbells of one burst
WAITING_MAX = 64  # no more rings while this many are waiting unheard: the worker is busy or gone
PAUSE_AFTER_ERROR_S = 1.0
UNREACHABLE = (KombuError, RedisError, OSError)


@dataclass(frozen=True, slots=True)
class Doorbell:
    """What a Celery message carries: the kind as task name, the job id, the trace."""

    kind: str
    job_id: UUID
    traceparent: str | None


class Ringer:
    """Sends doorbells from its own thread."""

    def __init__(self, settings: Settings, *, app: Celery | None = None) -> None:
        self._app = app or celery_app(settings)
        self._pending: dict[str, deque[Doorbell]] = {}
        self._rung_at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="ringer", daemon=True)
        self._thread.start()

    def ring(self, *, queue: str, kind: str, job_id: UUID, traceparent: str | None = None) -> None:
        """Wake a worker of `queue` soon; the newest few jobs stand for all."""
        with self._changed:
            pending = self._pending.get(queue)
            if pending is None:
                pending = self._pending[queue] = deque(maxlen=BURST_MAX)
            pending.append(Doorbell(kind, job_id, traceparent))
            self._changed.notify()

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Ring what is waiting, then end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not any(self._pending.values()):
                    if self._is_closing:
                        self._disconnect()
                        return
                    self._changed.wait()
                now = time.monotonic()
                waits = [
                    self._rung_at.get(queue, 0.0) + MIN_GAP_S - now
                    for queue, pending in self._pending.items()
                    if pending
                ]
                if min(waits) > 0 and not self._is_closing:
                    self._changed.wait(min(waits))
                    continue
                bursts = self._take(now)
            try:
                for queue, doorbells in bursts.items():
                    self._send(queue, doorbells)
            except UNREACHABLE as error:
                self._forget(bursts, error)

    def _take(self, now: float) -> dict[str, list[Doorbell]]:
        bursts: dict[str, list[Doorbell]] = {}
        for queue, pending in self._pending.items():
            if pending and (self._is_closing or self._rung_at.get(queue, 0.0) + MIN_GAP_S <= now):
                bursts[queue] = list(pending)
                pending.clear()
                self._rung_at[queue] = now
        return bursts

    def _send(self, queue: str, doorbells: list[Doorbell]) -> None:
        connection = self._connect()
        channel: Any = connection.default_channel
        waiting = channel.client.llen(queue)
        if waiting >= WAITING_MAX:
            metrics.rung(queue=queue, result="held back", count=len(doorbells))
            return
        for doorbell in doorbells:
            headers = {"traceparent": doorbell.traceparent} if doorbell.traceparent else {}
            self._app.send_task(
                doorbell.kind,
                args=(str(doorbell.job_id),),
                task_id=str(doorbell.job_id),
                queue=queue,
                headers=headers,
                connection=connection,
                retry=False,
                ignore_result=True,
                argsrepr="",
                kwargsrepr="",
            )
        metrics.rung(queue=queue, result="rung", count=len(doorbells))

    def _connect(self) -> Connection:
        if self._connection is None:
            connection = self._app.connection_for_write()
            connection.ensure_connection(max_retries=1, timeout=2, reraise_as_library_errors=True)
            self._connection = connection
        return self._connection

    def _forget(self, bursts: dict[str, list[Doorbell]], error: BaseException) -> None:
        log.warning("doorbell.lost", queues=sorted(bursts), error=type(error).__name__)
        for queue, doorbells in bursts.items():
            metrics.rung(queue=queue, result="lost", count=len(doorbells))
        self._disconnect()
        with self._changed:
            # While Redis is down the workers find their jobs in the ledger; a pause keeps
            # thousands of rings from each waiting for its own timeout.
            self._changed.wait_for(lambda: self._is_closing, timeout=PAUSE_AFTER_ERROR_S)
            for pending in self._pending.values():
                pending.clear()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*UNREACHABLE):
                connection.close()  # type: ignore[no-untyped-call]
