"""What is thrown away, in slices small enough that nobody waits for one.

Each function looks at no more than `limit` rows in the caller's transaction and says how many
there were, so that a caller goes on while slices come back full. A row that somebody has locked is
left for the next run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import text

from ledger.shapes import Slice

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SYSTEM_TENANT = "system"  # owns the jobs that Relais gives itself

# Finished jobs past their time. Failed and unknown ones are on the shelf where a person may
# still put them right, so they stay as long as history does. A parent stays while a child is open.
# `after` is where the slice before ended: what stays is not looked at again by every slice.
PRUNE_JOBS = text("""
WITH seen AS MATERIALIZED (
    SELECT id, state, finished_at FROM relais.jobs
    WHERE finished_at < statement_timestamp() - :finished_s * interval '1 second'
      AND finished_at >= coalesce(CAST(:after AS timestamptz), '-infinity')
      AND (finished_at, id) > (coalesce(CAST(:after AS timestamptz), '-infinity'),
                               CAST(:after_id AS uuid))
    ORDER BY finished_at, id LIMIT :limit
), gone AS (DELETE FROM relais.jobs WHERE id = ANY(ARRAY(
    SELECT j.id FROM relais.jobs AS j
    WHERE j.id = ANY(ARRAY(
        SELECT s.id FROM seen AS s
        WHERE s.state IN ('succeeded', 'cancelled')
           OR s.finished_at < statement_timestamp() - :shelf_s * interval '1 second'
    ))
      -- Once more, for one that is retried at this very moment.
      AND j.finished_at < statement_timestamp() - :finished_s * interval '1 second'
      AND NOT EXISTS (
          SELECT FROM relais.job_parents AS link
          JOIN relais.jobs AS child ON child.id = link.child_id
          WHERE link.parent_id = j.id AND child.finished_at IS NULL
      )
    FOR UPDATE OF j SKIP LOCKED
))
RETURNING id
), bodies AS (DELETE FROM relais.job_bodies USING gone WHERE job_bodies.job_id = gone.id)
SELECT (SELECT count(*) FROM seen) AS looked_at, (SELECT count(*) FROM gone) AS removed,
       (SELECT max(finished_at) FROM seen) AS until,
       (SELECT id FROM seen ORDER BY finished_at DESC, id DESC LIMIT 1) AS until_id
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

# Messages go with the history of their job, never before the job itself. `after_id` is where the
# slice before ended: those whose job is still there are not looked at again by every slice.
PRUNE_MESSAGES = text("""
WITH seen AS MATERIALIZED (
    SELECT id, job_id, changed_at FROM relais.messages
    WHERE id > CAST(:after_id AS uuid) AND id < CAST(:before AS uuid)
    ORDER BY id LIMIT :limit
), gone AS (DELETE FROM relais.messages WHERE id = ANY(ARRAY(
    SELECT m.id FROM relais.messages AS m
    WHERE m.id = ANY(ARRAY(
        SELECT s.id FROM seen AS s
        WHERE s.changed_at < statement_timestamp() - :events_s * interval '1 second'
          AND (SELECT j.id FROM relais.jobs AS j WHERE j.id = s.job_id) IS NULL
    ))
    FOR UPDATE SKIP LOCKED
))
RETURNING id
)
SELECT (SELECT count(*) FROM seen) AS looked_at, (SELECT count(*) FROM gone) AS removed,
       (SELECT id FROM seen ORDER BY id DESC LIMIT 1) AS until_id
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
    LIMIT :limit FOR UPDATE OF old SKIP LOCKED
)
""")

NOW_MS = text("SELECT (extract(epoch FROM statement_timestamp()) * 1000)::bigint")


@dataclass(slots=True)
class FinishedJobs:
    """Succeeded and cancelled jobs older than `finished_s`, failed and unknown than `shelf_s`.

    A walk from the oldest on; begin anew with a new object.
    """

    finished_s: float
    shelf_s: float
    after: datetime | None = None
    after_id: UUID = field(default=UUID(int=0))

    async def prune(self, connection: AsyncConnection, *, limit: int) -> Slice:
        """Remove what is past its time among the next `limit`."""
        values = {
            "finished_s": self.finished_s,
            "shelf_s": self.shelf_s,
            "after": self.after,
            "after_id": self.after_id,
            "limit": limit,
        }
        row = (await connection.execute(PRUNE_JOBS, values)).one()
        if row.looked_at:
            self.after, self.after_id = row.until, row.until_id
        return Slice(row.looked_at, row.removed)


@dataclass(slots=True)
class OldMessages:
    """Messages older than `events_s` whose job is gone.

    A walk from the oldest on; begin anew with a new object.
    """

    events_s: float
    after_id: UUID = field(default=UUID(int=0))

    async def prune(self, connection: AsyncConnection, *, limit: int) -> Slice:
        """Remove what is past its time among the next `limit`."""
        values = {
            "after_id": self.after_id,
            "before": await _id_from(connection, ago_s=self.events_s),
            "events_s": self.events_s,
            "limit": limit,
        }
        row = (await connection.execute(PRUNE_MESSAGES, values)).one()
        if row.looked_at:
            self.after_id = row.until_id
        return Slice(row.looked_at, row.removed)


async def prune_system_jobs(
    connection: AsyncConnection, *, kept_s: float, shelf_s: float, limit: int
) -> Slice:
    """Relais' own succeeded jobs older than `kept_s`, with their history."""
    parameters = {
        "system": SYSTEM_TENANT,
        "before": await _id_from(connection, ago_s=kept_s),
        "shelf_s": shelf_s,
        "limit": limit,
    }
    removed = int((await connection.execute(PRUNE_SYSTEM_JOBS, parameters)).scalar_one())
    return Slice(removed, removed)


async def prune_ticks(
    connection: AsyncConnection, *, kept_s: float, is_system: bool, limit: int
) -> Slice:
    """Ticks older than `kept_s`, of Relais' own schedules or of users'."""
    parameters = {
        "kept_s": kept_s,
        "is_system": is_system,
        "system": SYSTEM_TENANT,
        "limit": limit,
    }
    removed = (await connection.execute(PRUNE_TICKS, parameters)).rowcount
    return Slice(removed, removed)


async def _id_from(connection: AsyncConnection, *, ago_s: float) -> UUID:
    """The smallest UUIDv7 made `ago_s` ago, so that the primary key finds what is older."""
    now_ms = int((await connection.execute(NOW_MS)).scalar_one())
    return UUID(int=max(0, now_ms - int(ago_s * 1000)) << 80)
