"""Deletes what has expired, in slices small enough that nothing waits for long.

Each function looks at no more than `limit` rows in the caller's transaction and returns how many
there were, so that a caller continues while slices are full. A locked row is left for the next run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ledger import statements
from ledger.shapes import Slice

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SYSTEM_TENANT = "system"  # owns Relais' own jobs

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(slots=True)
class FinishedJobs:
    """Succeeded and cancelled jobs older than `finished_s`, failed and unknown than `shelf_s`.

    A walk from the oldest onwards; start over with a new object.
    """

    finished_s: float
    shelf_s: float
    after: datetime | None = None
    after_id: UUID = field(default=UUID(int=0))

    async def prune(self, connection: AsyncConnection, *, limit: int) -> Slice:
        """Remove the expired ones among the next `limit`."""
        values = {
            "finished_s": self.finished_s,
            "shelf_s": self.shelf_s,
            "after": self.after,
            "after_id": self.after_id,
            "limit": limit,
        }
        row = (await connection.execute(SQL["prune_jobs"], values)).one()
        if row.looked_at:
            self.after, self.after_id = row.until, row.until_id
        return Slice(row.looked_at, row.removed)


@dataclass(slots=True)
class OldMessages:
    """Messages older than `events_s` whose job is gone.

    A walk from the oldest onwards; start over with a new object.
    """

    events_s: float
    after_id: UUID = field(default=UUID(int=0))

    async def prune(self, connection: AsyncConnection, *, limit: int) -> Slice:
        """Remove the expired ones among the next `limit`."""
        values = {
            "after_id": self.after_id,
            "before": await _id_from(connection, ago_s=self.events_s),
            "events_s": self.events_s,
            "limit": limit,
        }
        row = (await connection.execute(SQL["prune_messages"], values)).one()
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
    removed = int((await connection.execute(SQL["prune_system_jobs"], parameters)).scalar_one())
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
    removed = (await connection.execute(SQL["prune_ticks"], parameters)).rowcount
    return Slice(removed, removed)


async def _id_from(connection: AsyncConnection, *, ago_s: float) -> UUID:
    """The smallest UUIDv7 made `ago_s` ago, so that the primary key finds what is older."""
    now_ms = int((await connection.execute(SQL["now_ms"])).scalar_one())
    return UUID(int=max(0, now_ms - int(ago_s * 1000)) << 80)
