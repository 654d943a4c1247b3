"""What is thrown away, in slices small enough that nobody waits for one.

Each function removes at most `limit` rows in the caller's transaction and says how many, so
that a caller goes on while slices come back full.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SYSTEM_TENANT = "system"  # owns the jobs that Relais gives itself

# Finished jobs past their time. Failed and unknown ones are on the shelf where a person may
# still put them right, so they stay as long as history does. A parent stays while a child is open.
# `after` is where the slice before ended: what stays is not looked at again by every slice.
PRUNE_JOBS = text("""
WITH gone AS (DELETE FROM relais.jobs WHERE id = ANY(ARRAY(
    SELECT j.id FROM relais.jobs AS j
    WHERE j.finished_at < statement_timestamp() - :finished_s * interval '1 second'
      AND j.finished_at >= coalesce(CAST(:after AS timestamptz), '-infinity')
      AND (j.state IN ('succeeded', 'cancelled')
           OR j.finished_at < statement_timestamp() - :shelf_s * interval '1 second')
      AND NOT EXISTS (
          SELECT FROM relais.job_parents AS link
          JOIN relais.jobs AS child ON child.id = link.child_id
          WHERE link.parent_id = j.id AND child.finished_at IS NULL
      )
    ORDER BY j.finished_at LIMIT :limit FOR UPDATE OF j SKIP LOCKED
))
RETURNING id, finished_at
), bodies AS (DELETE FROM relais.job_bodies USING gone WHERE job_bodies.job_id = gone.id)
SELECT finished_at FROM gone
""")

# Relais' own jobs (a canary each few seconds) go soon, and take their history along.
PRUNE_SYSTEM_JOBS = text("""
WITH pruned AS (
    DELETE FROM relais.jobs WHERE id = ANY(ARRAY(
        SELECT id FROM relais.jobs
        WHERE tenant = :system AND id < CAST(:before AS uuid) AND finished_at IS NOT NULL
          AND (state = 'succeeded'
               OR finished_at < statement_timestamp() - :shelf_s * interval '1 second')
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
), history AS (
    DELETE FROM relais.job_events USING pruned
    WHERE job_events.job_id = pruned.id
), bodies AS (
    DELETE FROM relais.job_bodies USING pruned WHERE job_bodies.job_id = pruned.id
)
SELECT count(*) FROM pruned
""")

# Messages go with the history of their job, never before the job itself.
PRUNE_MESSAGES = text("""
DELETE FROM relais.messages WHERE id = ANY(ARRAY(
    SELECT m.id FROM relais.messages AS m
    WHERE m.id < CAST(:before AS uuid)
      AND m.changed_at < statement_timestamp() - :events_s * interval '1 second'
      AND NOT EXISTS (SELECT FROM relais.jobs AS j WHERE j.id = m.job_id)
    ORDER BY m.id LIMIT :limit
))
""")

# Old ticks; the newest of each schedule stays, or it would be fired again.
PRUNE_TICKS = text("""
DELETE FROM relais.schedule_ticks AS t
WHERE (t.schedule, t.nominal_at) IN (
    SELECT old.schedule, old.nominal_at FROM relais.schedule_ticks AS old
    WHERE old.fired_at < statement_timestamp() - :kept_s * interval '1 second'
      AND (old.tenant = :system) = :is_system
      AND EXISTS (
          SELECT FROM relais.schedule_ticks AS newer
          WHERE newer.schedule = old.schedule AND newer.nominal_at > old.nominal_at
      )
    LIMIT :limit
)
""")

NOW_MS = text("SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint")


@dataclass(slots=True)
class FinishedJobs:
    """Succeeded and cancelled jobs older than `finished_s`, failed and unknown than `shelf_s`."""

    finished_s: float
    shelf_s: float
    after: datetime | None = None

    async def prune(self, connection: AsyncConnection, *, limit: int) -> int:
        """Remove the next slice; begin anew with a new object."""
        parameters = {
            "finished_s": self.finished_s,
            "shelf_s": self.shelf_s,
            "after": self.after,
            "limit": limit,
        }
        removed = (await connection.execute(PRUNE_JOBS, parameters)).scalars().all()
        self.after = max(removed, default=self.after)
        return len(removed)


async def prune_system_jobs(
    connection: AsyncConnection, *, kept_s: float, shelf_s: float, limit: int
) -> int:
    """Relais' own succeeded jobs older than `kept_s`, with their history."""
    parameters = {
        "system": SYSTEM_TENANT,
        "before": await _id_from(connection, ago_s=kept_s),
        "shelf_s": shelf_s,
        "limit": limit,
    }
    return int((await connection.execute(PRUNE_SYSTEM_JOBS, parameters)).scalar_one())


async def prune_messages(connection: AsyncConnection, *, events_s: float, limit: int) -> int:
    """Messages older than `events_s` whose job is gone."""
    parameters = {
        "before": await _id_from(connection, ago_s=events_s),
        "events_s": events_s,
        "limit": limit,
    }
    return (await connection.execute(PRUNE_MESSAGES, parameters)).rowcount


async def prune_ticks(
    connection: AsyncConnection, *, kept_s: float, is_system: bool, limit: int
) -> int:
    """Ticks older than `kept_s`, of Relais' own schedules or of users'."""
    parameters = {
        "kept_s": kept_s,
        "is_system": is_system,
        "system": SYSTEM_TENANT,
        "limit": limit,
    }
    return (await connection.execute(PRUNE_TICKS, parameters)).rowcount


async def _id_from(connection: AsyncConnection, *, ago_s: float) -> UUID:
    """The smallest UUIDv7 made `ago_s` ago, so that the primary key finds what is older."""
    now_ms = int((await connection.execute(NOW_MS)).scalar_one())
    return UUID(int=max(0, now_ms - int(ago_s * 1000)) << 80)
