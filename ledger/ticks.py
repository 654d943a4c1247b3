"""One tick of one schedule becomes one job, however many beats try.

The tick and its job are written in one transaction, and (schedule, nominal time) is unique. Of
two beats at once the second waits for the first one's commit, and then finds the tick taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledger import statements, transitions
from ledger.retention import SYSTEM_TENANT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncConnection

    from ledger.shapes import NewJob

STUCK_S = 900.0  # none of Relais' own jobs may take this long

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Tick:
    """One firing: the schedule's key, when it should have been, and the job it became."""

    schedule: str
    nominal_at: datetime
    job: NewJob


async def now(connection: AsyncConnection) -> datetime:
    """The database's clock: the only one that says what is due."""
    moment: datetime = (await connection.execute(SQL["now"])).scalar_one()
    return moment


async def take(connection: AsyncConnection, ticks: Sequence[Tick]) -> set[UUID]:
    """Insert `ticks` and their jobs; returns the jobs of those that had not been taken before."""
    if not ticks:
        return set()
    values = {
        "schedules": [tick.schedule for tick in ticks],
        "nominal": [tick.nominal_at for tick in ticks],
        "tenants": [tick.job.tenant for tick in ticks],
        "job_ids": [tick.job.id for tick in ticks],
    }
    taken = set((await connection.execute(SQL["take"], values)).scalars())
    jobs = [tick.job for tick in ticks if tick.job.id in taken]
    if jobs:
        await transitions.accept(connection, jobs)
    return taken


async def is_under_way(connection: AsyncConnection, *, schedule: str) -> bool:
    """Whether the job of the schedule's newest tick is still open, and not for STUCK_S already."""
    result = await connection.execute(
        SQL["is_under_way"], {"schedule": schedule, "stuck_s": STUCK_S}
    )
    return bool(result.scalar_one())


async def make_system_tenant(connection: AsyncConnection) -> None:
    """The owner of Relais' own jobs, so that they never mix with users' jobs."""
    await connection.execute(SQL["make_tenant"], {"name": SYSTEM_TENANT})
