"""Taking jobs from the ledger: make due ones ready, look at all lanes, claim, tidy up.

One coroutine of the engine does all of it, step by step, so it holds exactly what it was given: a
claim that the ledger has and the engine does not is a stray.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from ledger import lanes, outage, transitions
from runtime import logs, metrics
from tasks import kinds
from workers.claims import Claims

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ledger.presence import Presence
    from ledger.shapes import ClaimedJob
    from runtime.settings import Settings
    from workers.executor import Executor

log = logs.logger("engine")

PROMOTE_MAX = 1_000
PROMOTE_PER_LANE = 200
PROMOTE_ALL_EVERY_S = 10.0  # from the beginning; in between, from where the last look ended
LATE = timedelta(seconds=5)  # how long a transaction that defers jobs may take to commit
STRAYS_EVERY_S = 3.0
STRAYS_SINCE_S = 300.0  # no transaction of ours lives longer
AWAY_S = 0.3  # between two attempts while Postgres is down


class Claimer:
    """The claims of one worker on one queue."""

    def __init__(
        self, settings: Settings, database: AsyncEngine, *, queue: str, presence: Presence
    ) -> None:
        self._settings = settings
        self._database = database
        self._queue = queue
        self._presence = presence
        self._kinds = sorted(kinds.load(settings.kinds))
        self._claims = Claims()
        self._due_since: datetime | None = None
        self._promote_at = self._promote_all_at = self._strays_at = 0.0  # monotonic
        self._is_held_back = False  # not claiming, because we cannot prove that we are alive

    async def take(self, slots: Executor, *, room: int) -> bool:
        """Hand up to `room` jobs to `slots`; whether there were any. None while Postgres is down.

        Whatever the ledger says that this worker holds, and it does not, is given back now and
        then, whatever we suspect: a COMMIT may arrive long after it was given up.
        """
        now = time.monotonic()
        try:
            if now >= self._strays_at:
                await self._release_strays(slots)
            if not room or not self._may_claim():
                return False
            if self._claims.wants_full_look(now=now):
                await self._look_at_all(now=now)
            async with self._database.begin() as connection:
                await self._promote(connection, now=now)
                jobs = await self._claim(connection, slots, room)
        except (SQLAlchemyError, OSError) as error:
            if not outage.is_passing(error):
                raise
            self._strays_at = 0.0  # the claim may have been committed nevertheless
            log.warning("claim.failed", queue=self._queue, error=type(error).__name__)
            await asyncio.sleep(AWAY_S)
            return False
        if not jobs:
            return False
        metrics.claimed(seconds=time.monotonic() - now, jobs=len(jobs))
        for job in jobs:
            waited_s = max(0.0, (job.started_at - job.run_at).total_seconds())
            metrics.waited(queue=self._queue, seconds=waited_s)
        slots.take(jobs)
        return True

    def _may_claim(self) -> bool:
        """Whether the ledger would see that our claims have a live owner."""
        may = self._presence.may_claim()
        if may == self._is_held_back:
            self._is_held_back = not may
            if self._is_held_back:
                log.warning("claim.held_back", queue=self._queue)
        return may

    async def _claim(
        self, connection: AsyncConnection, slots: Executor, room: int
    ) -> list[ClaimedJob]:
        heads = await lanes.look(
            connection, queue=self._queue, kinds=self._kinds, floors=self._claims.floors
        )
        if not self._claims.looked(heads):
            return []
        wishes = self._claims.plan(room=room, held=slots.held_by_lane(), allowed=slots.claimable)
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
            limit=room,
        )
        self._claims.claimed(wishes, jobs)
        return jobs

    async def _look_at_all(self, *, now: float) -> None:
        """Find what appeared before a floor, and how many workers share a lane's limit."""
        async with self._database.begin() as connection:
            heads = await lanes.look(connection, queue=self._queue, kinds=self._kinds)
            self._claims.workers = await lanes.workers(connection, queue=self._queue)
        ended = time.monotonic()
        self._claims.looked_at_all(heads, took_s=ended - now, now=ended)

    async def _promote(self, connection: AsyncConnection, *, now: float) -> None:
        if now < self._promote_at:
            return
        is_full = now >= self._promote_all_at
        due = await transitions.promote(
            connection,
            queue=self._queue,
            limit=PROMOTE_MAX,
            per_lane=PROMOTE_PER_LANE,
            since=None if is_full else self._due_since,
        )
        if due.jobs >= PROMOTE_MAX or due.most >= PROMOTE_PER_LANE:
            return  # there may be more
        self._promote_at = now + self._settings.poll_s / 2
        self._due_since = due.looked_at - LATE
        if is_full:
            self._promote_all_at = now + PROMOTE_ALL_EVERY_S

    async def _release_strays(self, slots: Executor) -> None:
        async with self._database.begin() as connection:
            strays = await transitions.release_strays(
                connection,
                owner=self._presence.owner,
                held=slots.fences(),
                since_s=STRAYS_SINCE_S,
            )
        self._strays_at = time.monotonic() + STRAYS_EVERY_S
        if strays:
            log.warning("claim.strays_released", queue=self._queue, count=len(strays))
