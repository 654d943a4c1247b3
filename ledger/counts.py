"""Exact counts of jobs by queue and state, at a cost that does not grow with their number.

A trigger records what each statement changed as a delta; the deltas are rolled up now and then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ledger import statements
from ledger.models.jobs import State

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))
ROLL_UP_MAX = 20_000


async def read(
    connection: AsyncConnection, *, tenant: str | None = None
) -> dict[tuple[str, State], int]:
    """(queue, state) -> jobs, of one tenant or of all; missing entries are 0."""
    result = await connection.execute(SQL["read"], {"tenant": tenant})
    return {(row.queue, State(row.state)): row.jobs for row in result}


async def roll_up(connection: AsyncConnection, *, limit: int = ROLL_UP_MAX) -> int:
    """Add up to `limit` deltas to the counts; how many there were."""
    return int((await connection.execute(SQL["roll_up"], {"limit": limit})).scalar_one())
