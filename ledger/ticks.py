"""ScheduleRunner: one tick of one schedule becomes one job, however many beats try.

The tick and its job are written in one transaction, and (schedule, nominal time) is unique. Of
two beats at once the second waits for the first one's commit, and then finds the tick taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import transitions
from ledger.retention import SYSTEM_TENANT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob

STUCK_S = 900.0  # Relais gives none of its own jobs so much time

# Take ticks; no row for one that was taken before.
TAKE = text("""
INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id)
SELECT t.schedule, t.nominal_at, t.tenant, t.job_id
FROM unnest(CAST(:schedules AS text[]), CAST(:nominal AS timestamptz[]),
            CAST(:tenants AS text[]), CAST(:job_ids AS uuid[]))
    AS t (schedule, nominal_at, tenant, job_id)
ORDER BY t.schedule
ON CONFLICT (schedule, nominal_at) DO NOTHING
RETURNING job_id
""")

# Whether the job of the newest tick has yet to finish, and may yet: one that is older is stuck, and
# keeps no other back.
IS_UNDER_WAY = text("""
SELECT EXISTS (
    SELECT FROM relais.jobs
    WHERE finished_at IS NULL
      AND created_at > statement_timestamp() - :stuck_s * interval '1 second'
      AND id = (
        SELECT job_id FROM relais.schedule_ticks
        WHERE schedule = :schedule ORDER BY nominal_at DESC LIMIT 1
    )
)
""")

MAKE_TENANT = text("INSERT INTO relais.tenants (name) VALUES (:name) ON CONFLICT DO NOTHING")

NOW = text("SELECT statement_timestamp()")


@dataclass(frozen=True, slots=True)
class Tick:
    """One firing: the schedule's key, when it should have been, and the job it became."""

    schedule: str
    nominal_at: datetime
    job: NewJob


async def now(connection: AsyncConnection) -> datetime:
    """The database's clock: the only one that says what is due."""
    moment: datetime = (await connection.execute(NOW)).scalar_one()
    return moment


async def take(connection: AsyncConnection, ticks: Sequence[Tick]) -> set[UUID]:
    """Write `ticks` and their jobs; the jobs of those that had not been taken before."""
    if not ticks:
        return set()
    values = {
        "schedules": [tick.schedule for tick in ticks],
        "nominal": [tick.nominal_at for tick in ticks],
        "tenants": [tick.job.tenant for tick in ticks],
        "job_ids": [tick.job.id for tick in ticks],
    }
    taken = set((await connection.execute(TAKE, values)).scalars())
    jobs = [tick.job for tick in ticks if tick.job.id in taken]
    if jobs:
        await transitions.accept(connection, jobs)
    return taken


async def is_under_way(connection: AsyncConnection, *, schedule: str) -> bool:
    """Whether the job of the schedule's newest tick is still open, and not for STUCK_S already."""
    result = await connection.execute(IS_UNDER_WAY, {"schedule": schedule, "stuck_s": STUCK_S})
    return bool(result.scalar_one())


async def make_system_tenant(connection: AsyncConnection) -> None:
    """The owner of Relais' own jobs, so that they never mix with anybody's."""
    await connection.execute(MAKE_TENANT, {"name": SYSTEM_TENANT})
