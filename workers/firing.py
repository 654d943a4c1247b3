"""One look at what is due, and the firing of it: into the ledger first, then the doorbell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from beat_schedule import beat_schedule
from ledger import due, ids, ticks
from ledger.errors import LedgerError
from ledger.retention import SYSTEM_TENANT
from ledger.shapes import NewJob
from runtime import logs, metrics, telemetry
from tasks import canary, housekeeping, kinds  # noqa: F401 - registers what the table names

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.due import Due, Fingerprint
    from ledger.schedules import Schedule
    from runtime.settings import Settings
    from tasks.periodic import Periodic

LOOK_EVERY_S = 1.0  # a new or changed schedule is noticed within this time
REFUSED = (DataError, IntegrityError, ProgrammingError, LedgerError)
log = logs.logger("beat")


class Rings(Protocol):
    """Whatever wakes a worker."""

    def ring(self, *, queue: str, kind: str, job_id: UUID, traceparent: str | None = None) -> None:
        """Wake a worker of `queue` soon."""


class Firing:
    """What is due by the database's clock; remembers what it has dealt with, to spare the ledger.

    Its memory is only thrift: the ledger decides whether a tick was fired before.
    """

    def __init__(self, settings: Settings, *, database: AsyncEngine, ringer: Rings) -> None:
        self._table = beat_schedule(settings)
        self._database = database
        self._ringer = ringer
        self._has_tenant = False
        self._fired: dict[str, datetime] = {}  # newest nominal time of each line of the table
        self._fingerprint: Fingerprint | None = None
        self._upcoming: dict[UUID, tuple[datetime, Schedule]] = {}

    async def look(self) -> float:
        """Fire what is due; seconds until the next look is worth it."""
        began = time.monotonic()
        has_tenant, self._has_tenant = self._has_tenant, False  # made again if this look fails
        async with self._database.begin() as connection:
            if not has_tenant:
                await ticks.make_system_tenant(connection)
            latest = await due.fingerprint(connection)
            if not latest.is_like(self._fingerprint):
                self._plan(await due.enabled(connection))
        self._fingerprint = latest
        now = latest.now
        for line in self._table:
            nominal_at = line.when.latest(now)
            if nominal_at is not None and self._fired.get(line.name) != nominal_at:
                await self._fire_system(line, nominal_at)
        for at, schedule in list(self._upcoming.values()):
            if at <= now:
                await self._fire_user(schedule, now)
        self._has_tenant = True
        return max(0.0, self._next_after(now) - (time.monotonic() - began))

    def _plan(self, enabled: list[Schedule]) -> None:
        self._upcoming.clear()
        for schedule in enabled:
            self._plan_one(schedule, after=schedule.fired_until)

    def _plan_one(self, schedule: Schedule, *, after: datetime) -> None:
        try:
            at = schedule.next_after(after)
        except LedgerError as error:  # a zone that this machine does not know
            log.warning("schedule.refused", schedule=str(schedule.id), reason=error.sentence)
            at = None
        if at is None:
            self._upcoming.pop(schedule.id, None)
        else:
            self._upcoming[schedule.id] = (at, schedule)

    def _next_after(self, now: datetime) -> float:
        """Seconds from `now` to the next nominal time, at most LOOK_EVERY_S."""
        upcoming = [at for at, _ in self._upcoming.values()]
        upcoming += [at for line in self._table if (at := line.when.next_after(now)) is not None]
        return min([LOOK_EVERY_S, *((at - now).total_seconds() for at in upcoming)])

    async def _fire_system(self, line: Periodic, nominal_at: datetime) -> None:
        kind = kinds.get(line.kind)
        with telemetry.span(
            "schedule.tick", kind="producer", attributes={"schedule": line.key, "kind": line.kind}
        ) as span:
            job = NewJob(
                id=ids.new(),
                tenant=SYSTEM_TENANT,
                kind=line.kind,
                queue=line.queue,
                payload=line.payload,
                max_attempts=kind.max_attempts if kind else 1,
                timeout_s=kind.timeout_s if kind else 60.0,
                priority=line.priority,
                accepted_by=line.key,
                traceparent=span.traceparent,
                trace_id=span.trace_id,
            )
            async with self._database.begin() as connection:
                if await ticks.is_under_way(connection, schedule=line.key):
                    result = "skipped"
                elif await ticks.take(connection, ticks.Tick(line.key, nominal_at, job)):
                    result = "fired"
                else:
                    result = "repeated"
            span.set(outcome=result, job_id=str(job.id))
        self._fired[line.name] = nominal_at
        metrics.ticked(scope="system", result=result)
        log.debug("schedule.tick", schedule=line.key, nominal_at=nominal_at, result=result)
        if result == "fired":
            self._ring(job)

    async def _fire_user(self, schedule: Schedule, now: datetime) -> None:
        key = str(schedule.id)
        nominal_at = schedule.latest_due(now)
        if nominal_at is None:
            self._plan_one(schedule, after=now)
            return
        tick = due.Due(schedule, nominal_at)
        try:
            job = await self._take(tick)
        except REFUSED as error:
            # The ledger will not have this job; its next tick may be another matter.
            log.warning("schedule.refused", schedule=key, reason=type(error).__name__)
            metrics.ticked(scope="user", result="refused")
        else:
            metrics.ticked(scope="user", result="fired" if job else "repeated")
            if job is not None:
                late_s = round((now - nominal_at).total_seconds(), 3)
                log.info(
                    "schedule.fired",
                    schedule=key,
                    nominal_at=nominal_at,
                    late_s=late_s,
                    job_id=str(job.id),
                    queue=job.queue,
                )
                self._ring(job)
        self._plan_one(schedule, after=nominal_at)

    async def _take(self, tick: Due) -> NewJob | None:
        attributes: dict[str, telemetry.Attribute | None] = {"schedule": str(tick.schedule.id)}
        with telemetry.span("schedule.tick", kind="producer", attributes=attributes) as span:
            async with self._database.begin() as connection:
                job = await due.fire(connection, tick, traceparent=span.traceparent)
            span.set(outcome="fired" if job else "repeated", job_id=str(job.id) if job else None)
        return job

    def _ring(self, job: NewJob) -> None:
        metrics.accepted(queue=job.queue, kind=job.kind)
        self._ringer.ring(
            queue=job.queue, kind=job.kind, job_id=job.id, traceparent=job.traceparent
        )
