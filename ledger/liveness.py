"""Which owners of running jobs have no living process behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# Owners of running jobs whose advisory lock nobody holds (an owner without a row counts as dead),
# or who have let a lease run out.
QUIET_OWNERS = text("""
SELECT * FROM (
    SELECT o.owner, o.is_overdue, NOT EXISTS (
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND ((l.classid::bigint << 32) | l.objid::bigint) = w.lock_key
    ) AS is_silent
    FROM (
        SELECT owner, bool_or(lease_until < clock_timestamp()) AS is_overdue
        FROM relais.jobs WHERE state = 'running' GROUP BY owner
    ) AS o
    LEFT JOIN relais.workers AS w ON w.id = o.owner
) AS owners
WHERE is_silent OR is_overdue
""")

# Rows of processes that have been gone for a while and own nothing.
FORGET_WORKERS = text("""
DELETE FROM relais.workers AS w
WHERE w.seen_at < clock_timestamp() - interval '5 minutes'
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
""")


@dataclass(frozen=True, slots=True)
class Quiet:
    """Owners of running jobs that hold no lock, and owners whose lease on some job ran out."""

    silent: frozenset[UUID]
    overdue: frozenset[UUID]


async def quiet_owners(connection: AsyncConnection) -> Quiet:
    """Owners that do not prove themselves alive at this moment."""
    rows = (await connection.execute(QUIET_OWNERS)).all()
    return Quiet(
        silent=frozenset(row.owner for row in rows if row.is_silent),
        overdue=frozenset(row.owner for row in rows if row.is_overdue),
    )


async def forget_workers(connection: AsyncConnection) -> None:
    """Remove what long-gone processes left in `workers`."""
    await connection.execute(FORGET_WORKERS)
