"""Reclaiming the jobs of dead workers: every worker checks, and none holds a lock meanwhile.

A worker counts as dead when its lock was free, or one of its leases had expired, on two checks some
seconds apart: a Postgres restart drops every lock for a moment, and live workers take theirs
again; after a pause of Postgres every lease has expired, and live workers extend theirs.
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
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from doorbell.ringer import Ringer
    from ledger.liveness import Quiet
    from ledger.presence import Presence
    from ledger.shapes import Reclaimed
    from runtime.settings import Settings

log = logs.logger("reconcile")

LOOK_EVERY_S = 0.5
SHARED_FROM = (
    4  # with more workers each checks less often; all together as often as this many would
)
FORGET_EVERY_S = 60.0
ORPHANS_EVERY_S = 20.0
GAP_MAX = 2  # times the time after which a worker counts as dead, or between two of our checks


class Suspects:
    """Owners that were silent, and since when (monotonic) that has been known."""

    def __init__(self, *, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._since: dict[UUID, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def look(self, quiet: Iterable[UUID], *, asked_at: float, told_at: float) -> list[UUID]:
        """Note who was silent when Postgres was asked; returns those silent for long enough."""
        self._since = {owner: self._since.get(owner, told_at) for owner in quiet}
        return [o for o, since in self._since.items() if asked_at - since >= self._dead_after_s]

    def next_look_s(self, *, now: float, every_s: float) -> float:
        """Seconds until a check could prove the first suspect dead; `every_s` without one."""
        if not self._since:
            return every_s
        return min(LOOK_EVERY_S, max(0.02, min(self._since.values()) + self._dead_after_s - now))

    def forget(self) -> None:
        """Start over: what was seen before proves nothing any more."""
        self._since.clear()


class DeadWorkerDetector:
    """Decides who is dead: silent (no lock), or overdue (a lease ran out), for long enough.

    A Postgres that stood still lets every lease run out at once, while nobody could prolong one:
    an answer that took so long proves nothing, and what was seen before it no longer does. Nor
    does what was seen before a gap in our own looks.
    """

    def __init__(self, *, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._told_at = 0.0
        self._every_s = LOOK_EVERY_S
        self._silent = Suspects(dead_after_s=dead_after_s)
        self._overdue = Suspects(dead_after_s=dead_after_s)

    def __bool__(self) -> bool:
        return bool(self._silent) or bool(self._overdue)

    def look(
        self, quiet: Quiet, *, asked_at: float, told_at: float
    ) -> tuple[list[UUID], list[UUID]]:
        """The dead and the overdue workers, after Postgres named the silent ones."""
        took_s, gap_s = told_at - asked_at, asked_at - self._told_at
        if took_s >= self._dead_after_s or gap_s >= GAP_MAX * max(
            self._dead_after_s, self._every_s
        ):
            self.forget()
        self._told_at = told_at
        self._every_s = LOOK_EVERY_S * max(1.0, quiet.everybody / SHARED_FROM)
        return (
            self._silent.look(quiet.silent, asked_at=asked_at, told_at=told_at),
            self._overdue.look(quiet.overdue, asked_at=asked_at, told_at=told_at),
        )

    def next_look_s(self, *, now: float) -> float:
        """Seconds until a check could prove a worker dead."""
        return min(
            self._silent.next_look_s(now=now, every_s=self._every_s),
            self._overdue.next_look_s(now=now, every_s=self._every_s),
        )

    def forget(self) -> None:
        """Start over."""
        self._silent.forget()
        self._overdue.forget()


async def run(
    database: AsyncEngine,
    settings: Settings,
    presence: Presence,
    ringer: Ringer,
    *,
    on_suspicion: Callable[[], object],
) -> None:
    """Check for dead workers until cancelled; `on_suspicion` is told when one may have died."""
    detector = DeadWorkerDetector(dead_after_s=settings.dead_after_s)
    orphans = Suspects(dead_after_s=settings.lease_s)
    seen_connection = patient_until = forgotten_at = orphans_at = 0.0
    while True:
        jitter = random.uniform(0.7, 1.0)  # noqa: S311 - spreads load, guards nothing
        await asyncio.sleep(jitter * detector.next_look_s(now=time.monotonic()))
        now = time.monotonic()
        if presence.connected_at != seen_connection:
            # We lost our own lock, so others may have lost theirs: give them time to come back.
            patient_until = now + settings.dead_after_s if seen_connection else now
            seen_connection = presence.connected_at
            detector.forget()
        if not seen_connection or now < patient_until:
            continue
        try:
            await _look(database, detector, ringer)
            if detector:
                on_suspicion()
            if now - orphans_at > ORPHANS_EVERY_S:
                orphans_at = now
                await _look_for_orphans(database, orphans, ringer)
            if now - forgotten_at > FORGET_EVERY_S:
                async with database.begin() as connection:
                    await liveness.forget_workers(connection)
                forgotten_at = now
        except (DBAPIError, NoConnectionInTime, OSError) as error:
            detector.forget()
            log.warning("reconcile.failed", error=type(error).__name__)


async def _look_for_orphans(database: AsyncEngine, orphans: Suspects, ringer: Ringer) -> None:
    """Jobs whose owner has no row: it was removed between a claim's check and its commit."""
    async with database.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        found = await liveness.orphans(connection)
    now = time.monotonic()
    left = orphans.look(found, asked_at=now, told_at=now)
    if left:
        async with database.begin() as connection:
            taken = await transitions.reclaim(connection, dead=left)
        _report(taken, owners=len(left), ringer=ringer)


async def _look(database: AsyncEngine, detector: DeadWorkerDetector, ringer: Ringer) -> None:
    asked_at = time.monotonic()
    async with database.connect() as connection:
        # One statement in its own transaction: a process that freezes here blocks no one.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        quiet = await liveness.quiet_workers(connection)
    dead, overdue = detector.look(quiet, asked_at=asked_at, told_at=time.monotonic())
    if not dead and not overdue:
        return
    async with database.begin() as connection:
        taken = await transitions.reclaim(connection, dead=dead, overdue=overdue)
        await liveness.bury(connection, {*dead, *overdue})
    _report(taken, owners=len({*dead, *overdue}), ringer=ringer)


def _report(taken: Reclaimed, *, owners: int, ringer: Ringer) -> None:
    for job_id, queue, kind in taken.quarantined:
        log.error("job.quarantined", job_id=job_id, queue=queue, kind=kind)
    if taken.ready:
        log.warning("jobs.reclaimed", count=len(taken.ready), owners=owners)
    for job_id, queue, kind in taken.ready:
        ringer.ring(queue=queue, kind=kind, job_id=job_id)
    for job in taken.woken:
        ringer.ring(queue=job.queue, kind=job.kind, job_id=job.id)
