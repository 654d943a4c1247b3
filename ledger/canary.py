"""Canaries: small jobs that prove a queue is being worked on, by coming through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# A canary came through; an older one that was held up never turns the clock back.
MARK = text("""
INSERT INTO relais.queues AS q (name, canary_at) VALUES (:queue, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET canary_at = greatest(q.canary_at, excluded.canary_at)
""")

# Seconds since the newest canary of each queue.
AGES = text("""
SELECT name, extract(epoch FROM clock_timestamp() - canary_at)::float8 AS age_s
FROM relais.queues WHERE canary_at IS NOT NULL
""")


async def mark(connection: AsyncConnection, *, queue: str) -> None:
    """Note that a canary came through `queue` just now."""
    await connection.execute(MARK, {"queue": queue})


async def ages_s(connection: AsyncConnection) -> dict[str, float]:
    """Seconds since the newest canary came through, by queue; a queue without one is absent."""
    return {row.name: row.age_s for row in await connection.execute(AGES)}
