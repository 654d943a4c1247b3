"""Pausing queues: a paused queue keeps accepting, and nothing of it is claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

# Pause a queue; a second pause keeps the first one's time and name.
PAUSE = text(
    "INSERT INTO relais.queues (name, paused_at, paused_by)"
    " VALUES (:name, clock_timestamp(), :by)"
    " ON CONFLICT (name) DO UPDATE SET"
    " paused_at = coalesce(relais.queues.paused_at, excluded.paused_at),"
    " paused_by = coalesce(relais.queues.paused_by, excluded.paused_by)"
)
# Let a queue go on.
RESUME = text(
    "UPDATE relais.queues SET paused_at = NULL, paused_by = NULL"
    " WHERE name = :name AND paused_at IS NOT NULL RETURNING name"
)


async def pause(connection: AsyncConnection, *, name: str, by: str) -> None:
    """Let workers claim nothing more of the queue; what runs goes on."""
    await connection.execute(PAUSE, {"name": name, "by": by})


async def resume(connection: AsyncConnection, *, name: str) -> bool:
    """Let workers claim again; False: it was not paused."""
    return (await connection.execute(RESUME, {"name": name})).first() is not None
