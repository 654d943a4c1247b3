"""Which workers have no living process behind them; costs the same however many jobs run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

# Workers whose advisory lock nobody holds, or who have let their lease run out; and how many
# there are.
QUIET_WORKERS = text("""
SELECT w.id, w.is_silent, w.is_overdue, w.everybody FROM (
    SELECT w.id, w.lease_until < statement_timestamp() AS is_overdue,
           count(*) OVER () AS everybody, held.key IS NULL AS is_silent
    FROM relais.workers AS w
    LEFT JOIN (
        SELECT (l.classid::bigint << 32) | l.objid::bigint AS key
        FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS held ON held.key = w.lock_key
) AS w
""")

# Owners of running jobs that have no row in `workers`: from one owner to the next, not over jobs.
ORPHANS = text("""
WITH RECURSIVE owners (id) AS (
    (SELECT owner FROM relais.jobs WHERE state = 'running' ORDER BY owner LIMIT 1)
  UNION ALL
    SELECT (SELECT owner FROM relais.jobs WHERE state = 'running' AND owner > owners.id
            ORDER BY owner LIMIT 1)
    FROM owners WHERE owners.id IS NOT NULL
)
SELECT o.id FROM owners AS o
WHERE o.id IS NOT NULL AND NOT EXISTS (SELECT FROM relais.workers AS w WHERE w.id = o.id)
""")

# Rows of processes that have been gone for a while and own nothing.
FORGET_WORKERS = text("""
DELETE FROM relais.workers AS w
WHERE w.seen_at < statement_timestamp() - interval '5 minutes'
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
""")

# Rows of the dead once nothing is left of what they held. One who only seemed dead signs on again
# with its next heartbeat; until then it claims nothing.
BURY = text("""
DELETE FROM relais.workers AS w
WHERE w.id = ANY(CAST(:ids AS uuid[]))
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
""")


@dataclass(frozen=True, slots=True)
class Quiet:
    """Workers that hold no lock, workers whose lease ran out, and how many there are in all."""

    silent: frozenset[UUID]
    overdue: frozenset[UUID]
    everybody: int = 0


async def quiet_workers(connection: AsyncConnection) -> Quiet:
    """Workers that do not prove themselves alive at this moment."""
    rows = (await connection.execute(QUIET_WORKERS)).all()
    return Quiet(
        silent=frozenset(row.id for row in rows if row.is_silent),
        overdue=frozenset(row.id for row in rows if row.is_overdue),
        everybody=rows[0].everybody if rows else 0,
    )


async def orphans(connection: AsyncConnection) -> frozenset[UUID]:
    """Owners of running jobs that nobody has ever signed on as, or who are forgotten."""
    return frozenset((await connection.execute(ORPHANS)).scalars())


async def bury(connection: AsyncConnection, dead: Iterable[UUID]) -> None:
    """Remove the rows of `dead` workers that own nothing any more."""
    await connection.execute(BURY, {"ids": list(dead)})


async def forget_workers(connection: AsyncConnection) -> None:
    """Remove what long-gone processes left in `workers`."""
    await connection.execute(FORGET_WORKERS)
