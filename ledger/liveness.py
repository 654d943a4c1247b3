"""Which workers have no live process behind them; costs the same however many jobs are running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ledger import statements

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))


@dataclass(frozen=True, slots=True)
class Quiet:
    """Workers that hold no lock, workers whose lease has expired, and how many there are."""

    silent: frozenset[UUID]
    overdue: frozenset[UUID]
    everybody: int = 0


async def quiet_workers(connection: AsyncConnection) -> Quiet:
    """Workers that do not prove that they are alive at this moment."""
    rows = (await connection.execute(SQL["quiet_workers"])).all()
    return Quiet(
        silent=frozenset(row.id for row in rows if row.is_silent),
        overdue=frozenset(row.id for row in rows if row.is_overdue),
        everybody=rows[0].everybody if rows else 0,
    )


async def orphans(connection: AsyncConnection) -> frozenset[UUID]:
    """Owners of running jobs that have no row: never registered, or removed."""
    return frozenset((await connection.execute(SQL["orphans"])).scalars())


async def bury(connection: AsyncConnection, dead: Iterable[UUID]) -> None:
    """Remove the rows of `dead` workers that no longer own anything."""
    await connection.execute(SQL["bury"], {"ids": list(dead)})


async def forget_workers(connection: AsyncConnection) -> None:
    """Remove what long-gone processes left in `workers`."""
    await connection.execute(SQL["forget_workers"])
