"""How every queue is doing, at a price that does not grow with its backlog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

DEPTH_MAX = 100_000  # a deeper queue is reported as this deep

# Per queue: ready jobs (counted up to a limit), the longest waiting of each priority, the rest.
LOOK = text("""
SELECT
    q.name,
    (SELECT count(*) FROM (
        SELECT FROM relais.jobs WHERE queue = q.name AND state = 'ready' LIMIT :depth_max
    ) AS ready) AS ready,
    (SELECT count(*) FROM (
        SELECT FROM relais.jobs WHERE queue = q.name AND state = 'scheduled' LIMIT :depth_max
    ) AS scheduled) AS scheduled,
    (SELECT count(*) FROM relais.jobs WHERE queue = q.name AND state = 'running') AS running,
    extract(epoch FROM clock_timestamp() - (
        SELECT min(oldest.run_at) FROM generate_series(0, 9) AS p (priority),
        LATERAL (
            SELECT run_at FROM relais.jobs
            WHERE queue = q.name AND state = 'ready' AND priority = p.priority
            ORDER BY run_at LIMIT 1
        ) AS oldest
    ))::float8 AS oldest_ready_s,
    known.paused_at IS NOT NULL AS is_paused,
    extract(epoch FROM clock_timestamp() - known.canary_at)::float8 AS canary_age_s
FROM unnest(CAST(:queues AS text[])) WITH ORDINALITY AS q (name, position)
LEFT JOIN relais.queues AS known ON known.name = q.name
ORDER BY q.position
""")


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """One queue at one moment, all tenants together."""

    name: str
    ready: int
    scheduled: int
    running: int
    oldest_ready_s: float | None  # None: nothing waits
    is_paused: bool
    canary_age_s: float | None  # None: none has come through yet


async def look(connection: AsyncConnection, *, queues: Sequence[str]) -> list[QueueHealth]:
    """The health of `queues`, in their order."""
    result = await connection.execute(LOOK, {"queues": list(queues), "depth_max": DEPTH_MAX})
    return [QueueHealth(*row) for row in result]
