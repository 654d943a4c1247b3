"""The health of every queue, at a cost that does not grow with its backlog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ledger import counts, statements
from ledger.models.jobs import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))


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
        for row in await connection.execute(SQL["look"], {"queues": list(queues)})
    ]
