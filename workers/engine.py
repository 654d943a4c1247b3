"""The engine of one worker: claims jobs of one queue for as long as it lives.

It lives in a thread with an event loop of its own, beside Celery's consumer, whose doorbells
only wake it. Claims and finishes are batched where the backlog is deep; a lone job waits for
nobody.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionInTime

from ledger import database as ledger_database
from ledger import transitions
from runtime import logs, metrics
from tasks.email import pool
from workers import execute, reconcile
from workers.isolation import IsolationPool
from workers.outbox import Outbox
from workers.pace import Pace
from workers.slots import Slots

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.presence import Presence
    from ledger.shapes import ClaimedJob
    from runtime.settings import Settings
    from workers.doorbell import Ringer
    from workers.events import TaskEvents

log = logs.logger("engine")

PROMOTE_MAX = 1000
AWAY_S = 0.3  # between two tries while Postgres is away
JOIN_S = 10.0  # beyond the grace, for writing what is left
POOL_SIZE = 8


class Engine:
    """One queue's claims; what is claimed goes into `Slots`."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: str,
        presence: Presence,
        ringer: Ringer,
        events: TaskEvents | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._presence = presence
        self._ringer = ringer
        self._events = events
        self._pace = Pace(concurrency=settings.concurrency(queue), claim_max=settings.claim_max)
        self._promote_at = 0.0  # monotonic
        self._is_stopping = False
        self._is_suspicious = False  # a claim's COMMIT went unanswered
        self._grace_s = settings.grace_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots: Slots | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start claiming."""
        self._thread.start()
        self._started.wait()

    def wake(self) -> None:
        """A doorbell rang; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bell.set)

    def cancel(self, fences: list[tuple[UUID, int]]) -> None:
        """Stop these attempts, where they run here; callable from any thread."""
        if self._loop is not None and self._slots is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._slots.cancel, fences)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Stop claiming, let running jobs finish within the grace, give back the rest."""
        if grace_s is not None:
            self._grace_s = grace_s
        self._is_stopping = True
        self.wake()
        self._thread.join(self._grace_s + JOIN_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            # Celery's consumer would go on, deaf: better dead, so that somebody starts us anew.
            log.error("engine.broken", exc_info=error, queue=self._queue)
            os._exit(os.EX_SOFTWARE)

    async def _main(self) -> None:
        self._bell = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        database = ledger_database.engine(
            self._settings, pool_size=POOL_SIZE, name=f"relais worker {self._queue}"
        )
        concurrency = self._settings.concurrency(self._queue)
        isolation = IsolationPool(self._settings, size=concurrency)
        slots = self._slots = Slots(
            concurrency=concurrency,
            pace=self._pace,
            around=execute.Surroundings(
                self._settings, database, isolation, self._presence.still_owned
            ),
            out=Outbox(database, ringer=self._ringer),
            events=self._events,
            on_room=self._bell.set,
        )
        reconciler = asyncio.create_task(
            reconcile.run(
                database,
                self._settings,
                self._presence,
                self._ringer,
                on_suspicion=isolation.warm,  # what a dead worker held runs apart
            )
        )
        self._started.set()
        try:
            await self._claim_until_stopped(database, slots)
            given_back = await slots.wind_down(grace_s=self._grace_s)
            log.info("engine.stopped", queue=self._queue, given_back=given_back)
        finally:
            reconciler.cancel()
            await asyncio.gather(reconciler, return_exceptions=True)
            await slots.close()
            await isolation.close()
            await pool.close_all()
            await database.dispose()

    async def _claim_until_stopped(self, database: AsyncEngine, slots: Slots) -> None:
        while not self._is_stopping:
            self._bell.clear()
            room = self._pace.room(held=slots.held)
            if room:
                jobs = await self._claim(database, slots, room)
                await slots.take(jobs)
                if len(jobs) == room:
                    continue  # there is more where that came from
            await slots.give_back_stale()
            await self._rest()

    async def _rest(self) -> None:
        """Until a doorbell, a freed slot, or the time for a look."""
        look_s = self._settings.poll_s * random.uniform(0.7, 1.3)  # noqa: S311 - jitter
        try:
            async with asyncio.timeout(look_s):
                await self._bell.wait()
        except TimeoutError:
            pass

    async def _claim(self, database: AsyncEngine, slots: Slots, limit: int) -> list[ClaimedJob]:
        """Make due jobs ready, claim up to `limit`; none where Postgres is away."""
        started = time.monotonic()
        try:
            if self._is_suspicious:
                await self._release_strays(database, slots)
            async with database.begin() as connection:
                await self._promote(connection, now=started)
                jobs = await transitions.claim(
                    connection,
                    queue=self._queue,
                    owner=self._presence.owner,
                    worker=self._presence.name,
                    colour=self._settings.colour,
                    version=self._settings.version,
                    lease_s=self._settings.lease_s,
                    limit=limit,
                )
        except (DBAPIError, NoConnectionInTime, OSError) as error:
            self._is_suspicious = True
            log.warning("claim.failed", queue=self._queue, error=type(error).__name__)
            await asyncio.sleep(AWAY_S)
            return []
        metrics.claimed(seconds=time.monotonic() - started, jobs=len(jobs))
        for job in jobs:
            waited_s = max(0.0, (job.started_at - job.run_at).total_seconds())
            metrics.waited(queue=self._queue, seconds=waited_s)
        return jobs

    async def _promote(self, connection: AsyncConnection, *, now: float) -> None:
        if now < self._promote_at:
            return
        due = await transitions.promote(connection, queue=self._queue, limit=PROMOTE_MAX)
        if due < PROMOTE_MAX:
            self._promote_at = now + self._settings.poll_s / 2

    async def _release_strays(self, database: AsyncEngine, slots: Slots) -> None:
        """A claim whose COMMIT was answered into the void holds jobs that nobody runs."""
        async with database.begin() as connection:
            strays = await transitions.release_strays(
                connection, owner=self._presence.owner, known=slots.held_ids
            )
        self._is_suspicious = False
        if strays:
            log.warning("claim.strays_released", queue=self._queue, count=len(strays))
