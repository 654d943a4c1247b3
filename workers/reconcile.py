"""Taking back what dead workers held: everybody looks, one at a time, by an advisory lock.

A worker counts as dead when its lock was free on two looks some seconds apart: a Postgres restart
drops every lock for a moment, and living workers take theirs again.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionInTime

from ledger import liveness, transitions
from runtime import logs

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.presence import Presence
    from ledger.shapes import Reclaimed
    from runtime.settings import Settings
    from workers.doorbell import Ringer

log = logs.logger("reconcile")

LOOK_EVERY_S = 0.5
FORGET_EVERY_S = 60.0


class Suspects:
    """Owners whose lock was free, and since when we have seen it so."""

    def __init__(self, *, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._since: dict[UUID, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def look(self, silent: set[UUID], *, now: float) -> list[UUID]:
        """Note who is silent at `now` (monotonic); those that have been for long enough."""
        self._since = {owner: self._since.get(owner, now) for owner in silent}
        return [o for o, since in self._since.items() if now - since >= self._dead_after_s]

    def next_look_s(self, *, now: float) -> float:
        """Seconds until a look could prove the first suspect dead; LOOK_EVERY_S without one."""
        due = min(self._since.values(), default=now + LOOK_EVERY_S) + self._dead_after_s
        return min(LOOK_EVERY_S, max(0.02, due - now))

    def forget(self) -> None:
        """Start over: what was seen before proves nothing any more."""
        self._since.clear()


async def run(
    database: AsyncEngine,
    settings: Settings,
    presence: Presence,
    ringer: Ringer,
    *,
    on_suspicion: Callable[[], object],
) -> None:
    """Look for dead workers until cancelled; `on_suspicion` is told when one may have died."""
    suspects = Suspects(dead_after_s=settings.dead_after_s)
    seen_connection = patient_until = forgotten_at = 0.0
    while True:
        jitter = random.uniform(0.9, 1.0)  # noqa: S311 - spreads load, guards nothing
        await asyncio.sleep(jitter * suspects.next_look_s(now=time.monotonic()))
        now = time.monotonic()
        if presence.connected_at != seen_connection:
            # We lost our own lock, so others may have lost theirs: give them time to come back.
            patient_until = now + settings.dead_after_s if seen_connection else now
            seen_connection = presence.connected_at
            suspects.forget()
        if not seen_connection or now < patient_until:
            continue
        try:
            await _look(database, suspects, ringer, now=now)
            if suspects:
                on_suspicion()
            if now - forgotten_at > FORGET_EVERY_S:
                async with database.begin() as connection:
                    await liveness.forget_workers(connection)
                forgotten_at = now
        except (DBAPIError, NoConnectionInTime, OSError) as error:
            suspects.forget()
            log.warning("reconcile.failed", error=type(error).__name__)


async def _look(database: AsyncEngine, suspects: Suspects, ringer: Ringer, *, now: float) -> None:
    async with database.begin() as connection:
        if not await liveness.may_look(connection):
            return
        dead = suspects.look(await liveness.silent_owners(connection), now=now)
        if not dead and not await liveness.has_expired_leases(connection):
            return
        taken = await transitions.reclaim(connection, dead=dead)
    _report(taken, owners=len(dead), ringer=ringer)


def _report(taken: Reclaimed, *, owners: int, ringer: Ringer) -> None:
    for job_id, queue, kind in taken.quarantined:
        log.error("job.quarantined", job_id=job_id, queue=queue, kind=kind)
    if taken.ready:
        log.warning("jobs.reclaimed", count=len(taken.ready), owners=owners)
    for job_id, queue, kind in taken.ready:
        ringer.ring(queue=queue, kind=kind, job_id=job_id)
    for job in taken.woken:
        ringer.ring(queue=job.queue, kind=job.kind, job_id=job.id)
