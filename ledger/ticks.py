"""Firing: one tick of one schedule becomes one job, however many beats try.

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
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob

# Take a tick; no row: it was taken before.
TAKE = text("""
INSERT INTO relais.schedule_ticks (schedule, nominal_at, tenant, job_id)
VALUES (:schedule, :nominal_at, :tenant, :job_id)
ON CONFLICT (schedule, nominal_at) DO NOTHING
RETURNING job_id
""")

# Whether the job of the newest tick has yet to finish.
IS_UNDER_WAY = text("""
SELECT EXISTS (
    SELECT FROM relais.jobs
    WHERE finished_at IS NULL AND id = (
        SELECT job_id FROM relais.schedule_ticks
        WHERE schedule = :schedule ORDER BY nominal_at DESC LIMIT 1
    )
)
""")

MAKE_TENANT = text("INSERT INTO relais.tenants (name) VALUES (:name) ON CONFLICT DO NOTHING")

NOW = text("SELECT clock_timestamp()")


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


async def take(connection: AsyncConnection, tick: Tick) -> bool:
    """Write `tick` and its job; False: the tick was taken before, nothing was written."""
    taken = await connection.execute(
        TAKE,
        {
            "schedule": tick.schedule,
            "nominal_at": tick.nominal_at,
            "tenant": tick.job.tenant,
            "job_id": tick.job.id,
        },
    )
    if taken.first() is None:
        return False
    await transitions.accept(connection, [tick.job])
    return True


async def is_under_way(connection: AsyncConnection, *, schedule: str) -> bool:
    """Whether the job of the schedule's newest tick is still open."""
    result = await connection.execute(IS_UNDER_WAY, {"schedule": schedule})
    return bool(result.scalar_one())


async def make_system_tenant(connection: AsyncConnection) -> None:
    """The owner of Relais' own jobs, so that they never mix with anybody's."""
    await connection.execute(MAKE_TENANT, {"name": SYSTEM_TENANT})
