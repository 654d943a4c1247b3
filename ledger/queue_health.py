"""How every queue is doing, at a price that does not grow with its backlog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from ledger import counts
from ledger.models.jobs import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

# Per queue: since when its longest ready job has been, by lane; what operators decided; canaries.
LOOK = text("""
SELECT
    q.name,
    extract(epoch FROM statement_timestamp() - (
        SELECT min(head.ready_at) FROM relais.lanes AS l
        CROSS JOIN LATERAL (
            SELECT j.ready_at FROM relais.jobs AS j
            WHERE j.queue = l.queue AND j.lane = l.lane AND j.kind = l.kind
              AND j.priority = l.priority AND j.state = 'ready'
            ORDER BY j.ready_at LIMIT 1
        ) AS head
        WHERE l.queue = q.name
    ))::float8 AS oldest_ready_s,
    known.paused_at IS NOT NULL AS is_paused,
    extract(epoch FROM statement_timestamp() - known.canary_at)::float8 AS canary_age_s
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
    known = await counts.read(connection)
    return [
        QueueHealth(
            name=row.name,
            ready=known.get((row.name, State.READY), 0),
            scheduled=known.get((row.name, State.SCHEDULED), 0),
            running=known.get((row.name, State.RUNNING), 0),
            oldest_ready_s=row.oldest_ready_s,
            is_paused=row.is_paused,
            canary_age_s=row.canary_age_s,
        )
        for row in await connection.execute(LOOK, {"queues": list(queues)})
    ]
