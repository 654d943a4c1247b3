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
from ledger import lanes, transitions
from runtime import logs, metrics
from tasks import kinds
from tasks.email import pool
from workers import execute, reconcile
from workers.claims import Claims
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
STRAYS_EVERY_S = 5.0
STRAYS_SINCE_S = 300.0  # no transaction of ours lives longer
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
        self._strays_at = 0.0  # monotonic
        self._claims = Claims()
        self._kinds = sorted(kinds.load(settings.kinds))
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

    def held(self) -> list[tuple[UUID, int]]:
        """What is claimed and not yet settled; callable from any thread."""
        return self._slots.fences if self._slots is not None else []

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
            if room and await self._claim(database, slots, room):
                continue  # there may be more where that came from
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

    async def _claim(self, database: AsyncEngine, slots: Slots, limit: int) -> bool:
        """Make due jobs ready, claim up to `limit`; whether any came. None while Postgres is away.

        Nothing is claimed by a worker that cannot prove to be alive.
        """
        if not self._presence.may_claim():
            return False
        started = time.monotonic()
        try:
            await self._release_strays(database, slots, now=started)
            await self._look_at_all(database, now=started)
            async with database.begin() as connection:
                await self._promote(connection, now=started)
                jobs = await self._take(connection, slots, limit)
        except (DBAPIError, NoConnectionInTime, OSError) as error:
            log.warning("claim.failed", queue=self._queue, error=type(error).__name__)
            await asyncio.sleep(AWAY_S)
            return False
        if not jobs:
            return False
        metrics.claimed(seconds=time.monotonic() - started, jobs=len(jobs))
        for job in jobs:
            waited_s = max(0.0, (job.started_at - job.run_at).total_seconds())
            metrics.waited(queue=self._queue, seconds=waited_s)
        await slots.take(jobs)
        return True

    async def _take(
        self, connection: AsyncConnection, slots: Slots, limit: int
    ) -> list[ClaimedJob]:
        heads = await lanes.look(
            connection, queue=self._queue, kinds=self._kinds, floors=self._claims.floors
        )
        if not self._claims.looked(heads):
            return []
        wishes = self._claims.plan(room=limit, held=slots.held_by_lane, allowed=slots.allowed)
        if not wishes:
            return []
        jobs = await transitions.claim(
            connection,
            queue=self._queue,
            wishes=wishes,
            owner=self._presence.owner,
            worker=self._presence.name,
            colour=self._settings.colour,
            version=self._settings.version,
            lease_s=self._settings.lease_s,
            limit=limit,
        )
        self._claims.claimed(wishes, jobs)
        return jobs

    async def _look_at_all(self, database: AsyncEngine, *, now: float) -> None:
        """What came in behind a floor, seldom; and among how many workers the lanes are shared."""
        if not self._claims.wants_full_look(now=now):
            return
        async with database.begin() as connection:
            heads = await lanes.look(connection, queue=self._queue, kinds=self._kinds)
            self._claims.workers = await lanes.workers(connection, queue=self._queue)
        ended = time.monotonic()
        self._claims.looked_at_all(heads, took_s=ended - now, now=ended)

    async def _promote(self, connection: AsyncConnection, *, now: float) -> None:
        if now < self._promote_at:
            return
        due = await transitions.promote(connection, queue=self._queue, limit=PROMOTE_MAX)
        if due < PROMOTE_MAX:
            self._promote_at = now + self._settings.poll_s / 2

    async def _release_strays(self, database: AsyncEngine, slots: Slots, *, now: float) -> None:
        """A claim whose COMMIT was never answered, or came late, holds jobs that nobody runs."""
        if now < self._strays_at:
            return
        async with database.begin() as connection:
            strays = await transitions.release_strays(
                connection,
                owner=self._presence.owner,
                held=slots.fences,
                since_s=STRAYS_SINCE_S,
            )
        self._strays_at = time.monotonic() + STRAYS_EVERY_S
        if strays:
            log.warning("claim.strays_released", queue=self._queue, count=len(strays))
