"""Which owners of running jobs have no living process behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

RECLAIM_LOCK = 0x5245434C41494D

# One process at a time reclaims. The lock lasts for one look, so that a frozen process cannot
# keep the others from looking.
MAY_LOOK = text("SELECT pg_try_advisory_xact_lock(:key)")

# Owners of running jobs whose advisory lock nobody holds (an owner without a row counts as dead).
SILENT_OWNERS = text("""
SELECT o.owner
FROM (SELECT DISTINCT owner FROM relais.jobs WHERE state = 'running') AS o
LEFT JOIN relais.workers AS w ON w.id = o.owner
WHERE NOT EXISTS (
    SELECT FROM pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND ((l.classid::bigint << 32) | l.objid::bigint) = w.lock_key
)
""")

# Whether any running job's lease has run out.
EXPIRED = text("""
SELECT EXISTS (
    SELECT FROM relais.jobs WHERE state = 'running' AND lease_until < clock_timestamp()
)
""")

# Rows of processes that have been gone for a while and own nothing.
FORGET_WORKERS = text("""
DELETE FROM relais.workers AS w
WHERE w.seen_at < clock_timestamp() - interval '5 minutes'
  AND NOT EXISTS (SELECT FROM relais.jobs WHERE state = 'running' AND owner = w.id)
""")


async def may_look(connection: AsyncConnection) -> bool:
    """Whether nobody else is reclaiming, until this transaction ends."""
    return bool((await connection.execute(MAY_LOOK, {"key": RECLAIM_LOCK})).scalar_one())


async def silent_owners(connection: AsyncConnection) -> set[UUID]:
    """Owners that hold running jobs but no lock, at this moment."""
    return set((await connection.execute(SILENT_OWNERS)).scalars())


async def has_expired_leases(connection: AsyncConnection) -> bool:
    """Whether a running job's owner has been silent past its lease."""
    return bool((await connection.execute(EXPIRED)).scalar_one())


async def forget_workers(connection: AsyncConnection) -> None:
    """Remove what long-gone processes left in `workers`."""
    await connection.execute(FORGET_WORKERS)
