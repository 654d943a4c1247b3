"""Pausing queues: a paused queue still accepts jobs, but none are claimed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ledger import statements

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

SQL = statements.load(Path(__file__).with_suffix(".sql"))


async def pause(connection: AsyncConnection, *, name: str, by: str) -> None:
    """Let workers claim nothing more from the queue; running jobs continue."""
    await connection.execute(SQL["pause"], {"name": name, "by": by})


async def resume(connection: AsyncConnection, *, name: str) -> bool:
    """Let workers claim again; False: it was not paused."""
    return (await connection.execute(SQL["resume"], {"name": name})).first() is not None
