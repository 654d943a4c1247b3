"""Checks which ticks are due and fires them: into the ledger first, then the doorbell."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from sqlalchemy.exc import DBAPIError

from beat_schedule import beat_schedule
from ledger import due, ids, outage, ticks
from ledger.retention import SYSTEM_TENANT
from ledger.shapes import NewJob
from runtime import logs, metrics, telemetry
from tasks import canary, housekeeping, kinds  # noqa: F401 - registers what the table names
from workers.timetable import Timetable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.due import Due, Fingerprint, Fired, Times
    from runtime.settings import Settings
    from tasks.periodic import Periodic

LOOK_EVERY_S = 1.0  # a new or changed schedule is noticed within this time
LOOK_MAX = 1_000  # fired by one look; Relais' own are looked at before the rest
BATCH_MAX = 250  # fired by one transaction
BUSY_S = 0.25  # until a tick that another beat was firing is checked again
AGAIN_S = 60.0  # until one that failed on its own is retried
STATEMENT_TIMEOUT = "57014"
LOCKED = "55P03"
log = logs.logger("beat")


class Rings(Protocol):
    """Whatever wakes a worker."""

    def ring(self, *, queue: str, kind: str, job_id: UUID, traceparent: str | None = None) -> None:
        """Wake a worker of `queue` soon."""


class ScheduleRunner:
    """What is due by the database's clock; remembers what it has handled, to spare the ledger.

    Its memory is only thrift: the ledger decides whether a tick was fired before.
    """

    def __init__(self, settings: Settings, *, database: AsyncEngine, ringer: Rings) -> None:
        self._settings = settings
        self._table = beat_schedule(settings)
        self._knows_kinds = False
        self._database = database
        self._ringer = ringer
        self._has_tenant = False
        self._fired: dict[str, datetime] = {}  # newest nominal time of each line of the table
        self._fingerprint: Fingerprint | None = None
        self._timetable = Timetable()

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
        ticks_due = self._timetable.due(now, limit=LOOK_MAX)
        for start in range(0, len(ticks_due), BATCH_MAX):
            await self._fire_batch(ticks_due[start : start + BATCH_MAX], now)
        self._has_tenant = True
        return max(0.0, self._next_after(now) - (time.monotonic() - began))

    def _plan(self, enabled: Sequence[Times]) -> None:
        if enabled and not self._knows_kinds:
            # Kinds determine the lanes of jobs. Without schedules they need not be loaded.
            kinds.load(self._settings.kinds)
            self._knows_kinds = True
        for times, reason in self._timetable.update(enabled):
            log.warning("schedule.refused", schedule=str(times.id), reason=reason)

    def _next_after(self, now: datetime) -> float:
        """Seconds from `now` to the next nominal time, at most LOOK_EVERY_S."""
        upcoming = [self._timetable.next_at, *(line.when.next_after(now) for line in self._table)]
        seconds = [(at - now).total_seconds() for at in upcoming if at is not None]
        return min([LOOK_EVERY_S, *seconds])

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
            result = await self._take(line, ticks.Tick(line.key, nominal_at, job))
            span.set(outcome=result, job_id=str(job.id))
        if result == "busy":
            return  # checked again soon; the others are not kept waiting
        self._fired[line.name] = nominal_at
        metrics.ticked(scope="system", result=result)
        log.debug("schedule.tick", schedule=line.key, nominal_at=nominal_at, result=result)
        if result == "fired":
            self._ring(job)

    async def _take(
        self, line: Periodic, tick: ticks.Tick
    ) -> Literal["fired", "repeated", "skipped", "busy"]:
        """`busy`: another beat has frozen in the middle of this very tick."""
        try:
            async with self._database.begin() as connection:
                await connection.execute(due.SQL["not_for_long"])
                if await ticks.is_under_way(connection, schedule=line.key):
                    return "skipped"
                return "fired" if await ticks.take(connection, [tick]) else "repeated"
        except DBAPIError as error:
            if outage.sqlstate(error) != LOCKED:
                raise
            return "busy"

    async def _fire_batch(self, batch: Sequence[Due], now: datetime) -> None:
        spans = [_span(tick) for tick in batch]
        traced = [
            replace(tick, traceparent=span.traceparent)
            for tick, span in zip(batch, spans, strict=True)
        ]
        try:
            async with self._database.begin() as connection:
                answers = await due.fire(connection, traced, lane_of=kinds.lane_of)
        except Exception as error:
            if _is_about_the_server(error):
                raise
            if len(batch) > 1:  # whatever is wrong with one must not affect the others
                middle = len(batch) // 2
                await self._fire_batch(batch[:middle], now)
                await self._fire_batch(batch[middle:], now)
                return
            result: Literal["refused", "failed"] = (
                "refused" if outage.is_own_fault(error) else "failed"
            )
            answers = [due.Fired(result, reason=type(error).__name__)]
        for tick, answer, span in zip(batch, answers, spans, strict=True):
            with span:
                span.set(outcome=answer.result, job_id=str(answer.job.id) if answer.job else None)
            self._settle(tick, answer, now)

    def _settle(self, tick: Due, answer: Fired, now: datetime) -> None:
        """Report the result of one, ring, and plan its next time."""
        if answer.result == "busy":
            self._timetable.postpone(tick.times, until=now + timedelta(seconds=BUSY_S))
            return
        key = str(tick.times.id)
        metrics.ticked(scope="user", result=answer.result)
        if answer.result == "failed":
            log.warning("schedule.failed", schedule=key, reason=answer.reason, again_s=AGAIN_S)
            self._timetable.postpone(tick.times, until=now + timedelta(seconds=AGAIN_S))
            return
        if answer.job is not None:
            log.info(
                "schedule.fired",
                schedule=key,
                nominal_at=tick.nominal_at,
                late_s=round((now - tick.nominal_at).total_seconds(), 3),
                job_id=str(answer.job.id),
                queue=answer.job.queue,
            )
            self._ring(answer.job)
        elif answer.result == "refused":
            # The ledger refuses this job; its next tick may succeed.
            log.warning("schedule.refused", schedule=key, reason=answer.reason)
        self._timetable.plan(tick.times, after=tick.nominal_at)

    def _ring(self, job: NewJob) -> None:
        metrics.accepted(queue=job.queue, kind=job.kind)
        self._ringer.ring(
            queue=job.queue, kind=job.kind, job_id=job.id, traceparent=job.traceparent
        )


def _span(tick: Due) -> telemetry.Span:
    """The start of the trace of one tick."""
    attributes: dict[str, telemetry.Attribute | None] = {"schedule": str(tick.times.id)}
    return telemetry.span("schedule.tick", kind="producer", attributes=attributes)


def _is_about_the_server(error: Exception) -> bool:
    """Whether Postgres cannot be written to just now: down, read-only, full, or shutting down."""
    if outage.is_own_fault(error):
        return False
    state = outage.sqlstate(error)
    return state[:2] in {"", "08", "25", "53", "57"} and state != STATEMENT_TIMEOUT
