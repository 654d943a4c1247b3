"""Telling Flower what really happens: one row per job, whether or not a doorbell announced it.

Celery's own events speak of doorbells. These speak of jobs; they are sent from a thread, in
batches, and dropped where Redis is away: Flower is a window, not a record.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from celery.events import EventDispatcher

from doorbell.ringer import UNREACHABLE
from runtime import logs
from runtime.redaction import redacted
from tasks import canary

if TYPE_CHECKING:
    from celery import Celery

    from ledger.shapes import ClaimedJob
    from tasks.outcomes import ErrorReport

log = logs.logger("events")

WAITING_MAX = 20_000  # beyond this the oldest are dropped
BATCH_MAX = 500
SEND_EVERY_S = 0.1


class TaskEvents:
    """Celery task events of one worker; every method is cheap and never fails."""

    def __init__(self, app: Celery, *, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=WAITING_MAX)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def started(self, job: ClaimedJob) -> None:
        """The job was claimed and is about to run; canaries are not shown.

        Every queue has one every few seconds: they would drown the jobs that people look for.
        Health and metrics tell of them.
        """
        if job.kind == canary.NAME:
            return
        uuid, now = str(job.id), time.time()
        retries = max(0, job.counted - 1)
        described = {
            "uuid": uuid,
            "name": job.kind,
            "args": f"[job {job.id}]",
            "kwargs": "{}",
            "retries": retries,
            "routing_key": job.queue,
            "queue": job.queue,
            "root_id": uuid,
            "timestamp": now,
        }
        self._waiting.append(("task-received", described))
        self._waiting.append(("task-started", {"uuid": uuid, "retries": retries, "timestamp": now}))

    def ended(
        self,
        job: ClaimedJob,
        event: str,
        *,
        seconds: float,
        reason: str = "",
        error: ErrorReport | None = None,
    ) -> None:
        """The attempt ended: `event` is succeeded, failed, retried, revoked or rejected."""
        if job.kind == canary.NAME:
            return
        fields: dict[str, Any] = {"uuid": str(job.id), "timestamp": time.time()}
        if event == "succeeded":
            fields |= {"result": "", "runtime": seconds}
        elif event in {"failed", "retried"}:
            fields |= {
                "exception": redacted(reason),
                "traceback": redacted(error.traceback) if error else "",
                "runtime": seconds,
            }
        elif event == "revoked":
            fields |= {"terminated": False, "signum": None, "expired": False}
        self._waiting.append((f"task-{event}", fields))

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Send what is waiting, then end."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._stop.wait(SEND_EVERY_S)
            if not self._waiting:
                continue
            try:
                self._send_all()
            except UNREACHABLE as error:
                log.warning("events.lost", count=len(self._waiting), error=type(error).__name__)
                self._waiting.clear()
                self._stop.wait(1.0)

    def _send_all(self) -> None:
        with self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2, reraise_as_library_errors=True)
            dispatcher = EventDispatcher(
                connection,
                hostname=self._hostname,
                app=self._app,
                buffer_group={"task"},
                buffer_limit=BATCH_MAX,
                buffer_while_offline=False,
            )
            idle_since = time.monotonic()
            while not (self._stop.is_set() and not self._waiting):
                while self._waiting:
                    event, fields = self._waiting.popleft()
                    dispatcher.send(event, **fields)
                    idle_since = time.monotonic()
                dispatcher.flush(errors=False)
                if time.monotonic() - idle_since > 30:
                    break
                self._stop.wait(SEND_EVERY_S)
