"""Which users' schedules are due, and making a tick of one a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import ids, ticks
from ledger.schedules import COLUMNS, JOB_OPTIONAL, JOB_REQUIRED, Schedule, check_job
from ledger.shapes import NewJob

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# Without their jobs, which `fire` reads afresh.
ENABLED = text(f"""
SELECT {COLUMNS.replace("job", "'{}'::jsonb AS job")}
FROM relais.schedules WHERE enabled ORDER BY id
""")

# Says whether `enabled` would answer differently than before, without reading it all.
FINGERPRINT = text("""
SELECT clock_timestamp() AS now, count(*) AS schedules,
       coalesce(sum(extract(epoch FROM changed_at)), 0) AS changes
FROM relais.schedules WHERE enabled
""")

LOCK = text(f"SELECT {COLUMNS} FROM relais.schedules WHERE id = :id FOR UPDATE")

DEAL_WITH = text("UPDATE relais.schedules SET fired_until = :nominal_at WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule and the nominal time at which it is to be fired."""

    schedule: Schedule
    nominal_at: datetime


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Two that are equal (but for `now`) stand for the same enabled schedules."""

    now: datetime
    schedules: int
    changes: float

    def is_like(self, other: Fingerprint | None) -> bool:
        """Whether nothing has been changed between the two."""
        return other is not None and (self.schedules, self.changes) == (
            other.schedules,
            other.changes,
        )


async def fingerprint(connection: AsyncConnection) -> Fingerprint:
    """The database's clock, and whether `enabled` has to be read again."""
    row = (await connection.execute(FINGERPRINT)).one()
    return Fingerprint(row.now, row.schedules, float(row.changes))


async def enabled(connection: AsyncConnection) -> list[Schedule]:
    """Every enabled schedule of every tenant, without its job."""
    return [Schedule(*row) for row in await connection.execute(ENABLED)]


async def due(connection: AsyncConnection) -> list[Due]:
    """What is to be fired now, by the database's clock: of each schedule the newest tick only."""
    now = await ticks.now(connection)
    return [
        Due(schedule, nominal_at)
        for schedule in await enabled(connection)
        if (nominal_at := schedule.latest_due(now)) is not None
    ]


async def fire(
    connection: AsyncConnection, tick: Due, *, traceparent: str | None = None
) -> NewJob | None:
    """Make `tick` a job, once; None: it was dealt with, switched off or changed meanwhile."""
    row = (await connection.execute(LOCK, {"id": tick.schedule.id})).first()
    if row is None:
        return None
    schedule = Schedule(*row)
    times = (tick.schedule.cron, tick.schedule.timezone)
    if (
        not schedule.enabled
        or (schedule.cron, schedule.timezone) != times
        or schedule.fired_until >= tick.nominal_at
    ):
        return None
    job = _as_new_job(schedule, traceparent=traceparent)
    is_taken = await ticks.take(connection, ticks.Tick(str(schedule.id), tick.nominal_at, job))
    await connection.execute(DEAL_WITH, {"id": schedule.id, "nominal_at": tick.nominal_at})
    return job if is_taken else None


def _as_new_job(schedule: Schedule, *, traceparent: str | None) -> NewJob:
    job = schedule.job
    check_job(job)
    optional = {key: job[key] for key in JOB_OPTIONAL if job.get(key) is not None}
    if "tags" in optional:
        optional["tags"] = tuple(optional["tags"])
    return NewJob(
        id=ids.new(),
        tenant=schedule.tenant,
        accepted_by=f"schedule:{schedule.name}",
        traceparent=traceparent,
        trace_id=traceparent[3:35] if traceparent else None,
        **{key: job[key] for key in JOB_REQUIRED},
        **optional,
    )
